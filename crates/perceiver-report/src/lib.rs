//! What training came to, for people: reports, comparisons of runs, attention over pictures.
