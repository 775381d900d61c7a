"""Google Cloud KMS over its REST API; ``docs/how-to/google-cloud-kms.md``."""
