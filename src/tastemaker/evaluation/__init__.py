"""What was gained, how sure that is, and what it cost: numbers with intervals, pictures side by side, one report page."""
