"""Program -> findings: one file per property, and the certificate that joins them."""
