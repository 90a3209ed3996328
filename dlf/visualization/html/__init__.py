"""The parts that all HTML pages share: the style sheet, the curves, the sortable table and the writer."""
