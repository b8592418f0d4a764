"""The review app without a browser: in place of the viewer stands a field that takes what a test
sends, and what the viewer would be sent is kept."""

import json
from secrets import token_hex

import streamlit as st

from apps.review import receipts, routes

DATA, FIELD = "viewer_data", "to_python"


def serve(monkeypatch, folder):
    """Have the app take itself for one that is served, with a viewer that is built."""
    bundle = folder / "bundle"
    bundle.mkdir(exist_ok=True)
    for name in ("viewer.js", "stamp.txt"):
        (bundle / name).write_text("1")
    monkeypatch.setattr(routes, "BUNDLE", bundle)
    monkeypatch.setitem(routes._state, "served", True)
    monkeypatch.setattr(receipts, "_done", {})
    monkeypatch.setattr(st.components.v2, "component", component)


def component(name, **_):
    """A component that draws nothing, and of the viewer the field that stands in for it."""

    def draw(*, data=None, key=None, on_sent_change=None, **_):
        if name != "anodetect_viewer":
            return
        st.session_state[DATA] = data

        def take():
            st.session_state[key] = {"sent": json.loads(st.session_state[FIELD])}
            on_sent_change()

        st.text_area("To Python", key=FIELD, on_change=take)

    return draw


# -- What the viewer is sent -----------------------------------------------------------------------


def sent(app):
    """What the viewer was sent last."""
    return app.session_state[DATA]


def card(app):
    """The card of the open case."""
    return next(each for each in sent(app)["cards"] if each["ticket"] == sent(app)["open"])


def said(app):
    """What is said of the open case."""
    return " ".join([card(app)["title"], *card(app)["facts"], *card(app)["warnings"]])


def receipt(app):
    """What became of the last verdict, as text."""
    return sent(app)["receipts"][-1]["text"]


def everything_sent(app):
    """All that the browser is sent: what the viewer is, every element's message, and tables."""
    found = [json.dumps(sent(app))]
    for block in (app.main, app.sidebar):
        found += [str(element.proto) for element in block if hasattr(element, "proto")]
    for kind in ("dataframe", "text", "caption", "button", "selectbox", "multiselect", "expander"):
        found += [str(element.proto) for element in app.get(kind)]
    found += [frame.value.to_json() for frame in app.dataframe]
    return "\n".join(found)


# -- What it sends ---------------------------------------------------------------------------------


def send(app, *verdicts, opened=""):
    message = {"seq": sent(app)["seq"] + 1, "open": opened, "verdicts": list(verdicts)}
    return app.text_area(key=FIELD).set_value(json.dumps(message)).run()


def judge(app, verdict, **more):
    """Judge the open case, which the browser has painted."""
    ticket = sent(app)["open"]
    given = {"id": token_hex(8), "ticket": ticket, "verdict": verdict, "painted": ticket}
    return send(app, given | {"seconds": 1.0} | more)


def undo(app):
    return send(app, {"id": token_hex(8), "ticket": "", "verdict": "undo"})


def step(app, by):
    """Open another case, so many places further in the list."""
    order = sent(app)["order"]
    return send(app, opened=order[order.index(sent(app)["open"]) + by])
