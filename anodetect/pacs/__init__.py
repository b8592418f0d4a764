"""To and from a DICOM archive: pull series, push results, listen for what a scanner sends.

An archive is spoken to by DICOMweb or by DICOM's own network protocol (DIMSE); `archive` says what
both can do. Needs the extra `pacs`. Nothing here shows or stores text of a header: series are
called by their UIDs, jobs by their own numbers.
"""
