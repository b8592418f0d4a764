"""Alarms: a command or a web address hears of every flagged file, on a thread of its own."""

import json
import queue
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from anodetect.errors import ConfigError, RunError
from anodetect.record.lines import LineFile, holds
from anodetect.types import Reporter

TRIES = 5
SECONDS = 10.0  # that an alarm may take
FIRST_DELAY = 0.5  # seconds until it is tried again, each time twice as long
Alarm = Mapping[str, Any]  # a verdict as JSON values, with the name of its `record`


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmEvent:
    """A line of the log: what became of the alarm over a file of a record."""

    record: str
    path: str
    state: Literal["heard", "failed"]
    note: str = ""


_ADAPTER = TypeAdapter(AlarmEvent)


class Alarms:
    """Sends alarms, and notes each in the file `log`; a context manager, which waits at its end
    until all were tried.

    `command` is run without a shell, with the alarm as JSON on its standard input, and `webhook`
    gets it by POST. Each is tried TRIES times. ConfigError for an address that is none.
    """

    def __init__(self, log: Path, command: Sequence[str], webhook: str, reporter: Reporter) -> None:
        _check(webhook)
        self.command, self.webhook, self.reporter = list(command), webhook, reporter
        self.lines = LineFile(log, holds(_ADAPTER))
        self.waiting: queue.Queue[Alarm | None] = queue.Queue()
        self.heard: set[tuple[str, str]] = set()
        self.failed = 0
        self.thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Alarms":
        self.lines.open()
        for line in self.lines.lines():
            event = _ADAPTER.validate_json(line)
            self.heard.add((event.record, event.path))
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.waiting.put(None)
        self.thread.join()
        self.lines.close()

    def send(self, alarm: Alarm) -> None:
        """Send an alarm soon, unless it was heard before, as by a process that was killed."""
        key = alarm["record"], alarm["path"]
        if (self.command or self.webhook) and key not in self.heard:
            self.heard.add(key)
            self.waiting.put(alarm)

    def wait(self) -> None:
        """Wait until every alarm was heard or has failed."""
        self.waiting.join()

    def forget(self, record: str) -> None:
        """Keep nothing of a record that is closed in memory."""
        self.heard = {key for key in self.heard if key[0] != record}

    def _work(self) -> None:
        reason = ""
        while (alarm := self.waiting.get()) is not None:
            # Where nobody hears, the next ones are tried once, not to wait behind each other.
            reason = self._tried(alarm, 1 if reason else TRIES)
            if reason:
                self.failed += 1
                self.reporter.warn(f"{alarm['path']}: the alarm was not heard: {reason}")
            state: Literal["heard", "failed"] = "failed" if reason else "heard"
            event = AlarmEvent(record=alarm["record"], path=alarm["path"], state=state, note=reason)
            try:
                self.lines.append([_ADAPTER.dump_json(event, exclude_defaults=True)])
            except RunError as error:  # as of a full disk; the next alarm is sent all the same
                self.reporter.warn(f"{alarm['path']}: what became of its alarm is lost: {error}")
            self.waiting.task_done()

    def _tried(self, alarm: Alarm, tries: int) -> str:
        """Send an alarm, several times if need be; return why it was not heard, "" if it was."""
        content, reason = json.dumps(alarm).encode(), ""
        for number in range(tries):
            if number:
                time.sleep(FIRST_DELAY * 2 ** (number - 1))
            reason = self._run(content) if self.command else ""
            if not reason and self.webhook:
                reason = self._post(content)
            if not reason:
                return ""
        return reason

    def _run(self, content: bytes) -> str:
        """Run the command; return why it failed."""
        try:
            done = subprocess.run(
                self.command,
                input=content,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"the command took more than {SECONDS:.0f} s"
        except OSError as error:
            return f"the command cannot be run ({error.strerror})"
        return f"the command ended with {done.returncode}" if done.returncode else ""

    def _post(self, content: bytes) -> str:
        """Post to the address; return why it failed."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.webhook, content, headers)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS):
                return ""
        except urllib.error.HTTPError as error:
            return f"the address answered {error.code}"
        except (OSError, ValueError) as error:
            return f"the address cannot be reached ({type(error).__name__})"


def _check(webhook: str) -> None:
    """Raise ConfigError for an address that is none, or that holds a password: the command line
    stands in the record."""
    if not webhook:
        return
    parts = urlsplit(webhook)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("--webhook: an address with http:// or https:// is needed")
    if parts.username or parts.password:
        raise ConfigError("--webhook: no user or password in an address")
