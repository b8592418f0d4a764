"""Scoring that is interrupted."""

from anodetect.engines import worker


def interrupted_after(monkeypatch, count):
    """As Ctrl-C when so many files are scored; returns what scores them undisturbed."""
    real = worker.score_records

    def stops(model, items, reporter, **options):
        for number, one in enumerate(real(model, items, reporter, **options)):
            if number == count:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(worker, "score_records", stops)
    return real
