"""Reports of an evaluation: Markdown, one self-contained HTML page, and what they show."""
