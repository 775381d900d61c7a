"""
Webhooks: sends the events of refunds to their tenants.

The messages are those of https://www.standardwebhooks.com.  It may import ``keys``
and the packages below it, for the audit of replays.  ``backends/webhook_client.py`` sends the requests.
"""
