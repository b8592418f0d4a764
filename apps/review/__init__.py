"""The review app: a worklist for people who look at scored images and decide.

    app.py        what `streamlit run` starts
    page.py       what stands around every page; the pages: cases.py (with picture.py), threshold.py, summary.py
    opened.py     what a page is drawn from, read once
    figures.py    plotly figures
    worklist.py   order, filters, patients and lots, and what another threshold would do
    display.py    images and maps as arrays
    store.py      verdicts, added and never changed

A checkout has it as apps.review, an installation as anodetect._review. Nothing here imports torch.
"""
