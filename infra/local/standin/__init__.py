"""A local stand-in for AWS: moto's server, with what moto leaves out of the services that the connector calls.

What it adds stands in this package and nowhere else:

- `security_hub`: GetFindings with filters, order, paging and "not subscribed"; findings keep their text.
- `sqs`: SendMessage without a count of the whole queue.
- `front`: faults on demand, a record of the calls, and SQS's refusal of characters outside XML 1.0.
"""
