"""The review app: a worklist for people who look at scored images and judge them.

    app.py        the script that Streamlit runs
    page.py       the frame around every page, and PAGES: cases.py (with picture.py), threshold.py,
                  summary.py, training.py
    opened.py     the score directory a page is drawn from, read once
    figures.py    plotly figures
    worklist.py   order, filters, patients and lots, and the effect of another threshold
    display.py    images and maps as arrays
    store.py      verdicts, added and never changed
    folders.py    runs, score directories and images in the folders the app may use
    jobs.py       commands in the background

A checkout has it as apps.review, an installation as anodetect._review. Nothing here imports torch.
"""
