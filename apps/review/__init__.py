"""The review app: a worklist for people who look at scored images and decide.

    app.py       what `streamlit run` starts
    screens.py   what is drawn; with app.py all that knows Streamlit
    store.py     verdicts, added and never changed
    worklist.py  order, filters, agreement, and what another threshold would do
    display.py   images and maps as arrays

A checkout has it as apps.review, an installation as anodetect._review. Nothing here imports torch.
"""
