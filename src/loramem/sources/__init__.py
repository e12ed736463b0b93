"""Sources: documents and the probes asked of a memory of them; `catalogue` lists the kinds."""
