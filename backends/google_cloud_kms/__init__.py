"""Google Cloud KMS over its REST API; ``docs/reference/google-cloud-kms.md``."""
