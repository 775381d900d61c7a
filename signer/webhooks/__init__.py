"""
Webhooks: sends the events of refunds to their tenants.

The messages are those of https://www.standardwebhooks.com.  It may import ``keys``,
whose ``AdminAudit`` records replays, and the packages below it.
``backends/webhook_client.py`` sends the requests.
"""
