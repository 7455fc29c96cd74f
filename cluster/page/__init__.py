"""Pages that are one HTML file each: what the sweep's report and the comparison's report share."""
