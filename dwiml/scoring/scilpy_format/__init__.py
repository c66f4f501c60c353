"""Read a ground truth in scilpy's format, such as that of the ISMRM 2015 challenge (Renauld et al., 2023)."""
