"""Alarms: a command and a web address hear of every flagged file, on a thread of their own.

Each of the two is tried by itself and has a line of its own in the log: where one fails, the other
does not hear an alarm twice.
"""

import json
import queue
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
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
Means = Literal["command", "webhook"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmEvent:
    """A line of the log: what became of the alarm over a file of a record by one of the means, of
    older lines by all."""

    record: str
    path: str
    state: Literal["heard", "failed"]
    note: str = ""
    means: Means | Literal[""] = ""


_ADAPTER = TypeAdapter(AlarmEvent)


class Alarms:
    """Sends alarms, and notes each in the file `log`; a context manager, which waits at its end
    until all were tried.

    `command` is run without a shell, with the alarm as JSON on its standard input, and `webhook`
    gets it by POST. Each is tried TRIES times, whatever becomes of the other. `failed` counts the
    alarms that one of them did not hear. ConfigError for an address that is none.
    """

    def __init__(self, log: Path, command: Sequence[str], webhook: str, reporter: Reporter) -> None:
        _check(webhook)
        self.command, self.webhook, self.reporter = list(command), webhook, reporter
        self.means: dict[Means, Callable[[bytes], str]] = {}
        if self.command:
            self.means["command"] = self._run
        if self.webhook:
            self.means["webhook"] = self._post
        self.lines = LineFile(log, holds(_ADAPTER))
        self.waiting: queue.Queue[tuple[Alarm, Sequence[Means]] | None] = queue.Queue()
        self.tried: set[tuple[str, str, str]] = set()  # record, path and means
        self.failed = 0
        self.thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Alarms":
        self.lines.open()
        for line in self.lines.lines():
            event = _ADAPTER.validate_json(line)
            for means in (event.means,) if event.means else self.means:
                self.tried.add((event.record, event.path, means))
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.waiting.put(None)
        self.thread.join()
        self.lines.close()

    def send(self, alarm: Alarm) -> None:
        """Send an alarm soon by the means that have not tried it before, as in a process that was
        killed."""
        keys = [(alarm["record"], alarm["path"], means) for means in self.means]
        left = [means for means, key in zip(self.means, keys, strict=True) if key not in self.tried]
        self.tried.update(keys)
        if left:
            self.waiting.put((alarm, left))

    def wait(self) -> None:
        """Wait until every alarm was heard or has failed."""
        self.waiting.join()

    def forget(self, record: str) -> None:
        """Keep nothing of a record that is closed in memory."""
        self.tried = {key for key in self.tried if key[0] != record}

    def _work(self) -> None:
        deaf = set[Means]()
        while (waiting := self.waiting.get()) is not None:
            (alarm, left), reasons = waiting, []
            for means in left:
                # What does not hear is tried once from now on, not to let others wait.
                reason = self._reason(means, alarm, 1 if means in deaf else TRIES)
                self._note(alarm, means, reason)
                deaf.discard(means)
                if reason:
                    deaf.add(means)
                    reasons.append(reason)
            self.failed += bool(reasons)
            self.waiting.task_done()

    def _reason(self, means: Means, alarm: Alarm, tries: int) -> str:
        """Send an alarm, several times if need be; return why it was not heard, "" if it was."""
        content, reason = json.dumps(alarm).encode(), ""
        for number in range(tries):
            if number:
                time.sleep(FIRST_DELAY * 2 ** (number - 1))
            reason = self.means[means](content)
            if not reason:
                break
        return reason

    def _note(self, alarm: Alarm, means: Means, reason: str) -> None:
        """Note what became of an alarm, and say if it was not heard."""
        record, path = alarm["record"], alarm["path"]
        if reason:
            self.reporter.warn(f"{path}: the alarm was not heard: {reason}")
        state: Literal["heard", "failed"] = "failed" if reason else "heard"
        event = AlarmEvent(record=record, path=path, state=state, note=reason, means=means)
        try:
            self.lines.append([_ADAPTER.dump_json(event, exclude_defaults=True)])
        except RunError as error:  # as of a full disk; the next alarm is sent all the same
            self.reporter.warn(f"{path}: what became of its alarm is lost: {error}")

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
