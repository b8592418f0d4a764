"""The review app: a worklist for people who look at scored images and judge them.

    app.py         the script that Streamlit runs
    page.py        the frame around every page, and PAGES, the table of them

    cases.py       the page to judge on, with case_list.py (sidebar) and chips.py
    gallery.py     thumbnails of all listed cases, which shelves.py hands out; peek.py shows the
                   list's large
    address.py     the address of the page: which case, which slice
    threshold.py   the page about another false-alarm rate
    summary.py     the page about the state of the review
    training.py    the page to train and to score on, with browse.py and rates.py
    widgets.py     parts that several pages draw; focus.py is a script

    viewing.py     the viewer in the page, and what it sends back; viewer/ is its source,
                   receipts.py says what became of verdicts
    serving.py     the app with the viewer's addresses, routes.py, and headers.py
    tickets.py     what the browser may fetch; tiles.py makes pyramids of images and maps
    facts.py       what is said of a case beside its pictures

    session.py     the score directory a page is drawn from, its verdicts and the reviewer
    scores.py      what a score directory holds; of many rows large.py reads pages, by catalogue.py
                   (rows and columns) and large_list.py (order and filters)
    likeness.py    how alike cases are, and how new
    store.py       verdicts, added and never changed; export.py writes them to files
    loading.py     the files behind a case; thumbnails.py makes small pictures of them
    display.py     a case as arrays for a screen; figures.py makes plotly figures of it
    worklist.py    order, filters, patients and lots
    regions.py     regions that reviewers mark
    outcome.py     the outcome of another false-alarm rate
    folders.py     runs, score directories and images in the folders the app may use
    jobs.py        commands in the background; state.py, its folder

A checkout has it as apps.review, an installation as anodetect._review. Nothing here imports torch.
"""
