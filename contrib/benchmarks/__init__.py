"""rbdfs and its peers, measured alternately on one throw-away cluster."""
