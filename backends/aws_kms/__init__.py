"""AWS KMS through boto3: ``backend`` signs, and ``plugin`` opens it."""
