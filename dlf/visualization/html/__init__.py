"""What all pages share: their style sheet, curves, the sortable table and the writer."""
