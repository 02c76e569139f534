"""A local stand-in for AWS: moto's server, with what moto leaves out of the services that the connector calls.

What it adds stands in this package and nowhere else:

- `security_hub`: GetFindings with filters, order, paging and "not subscribed"; BatchUpdateFindings; what V2 has of
  both. Findings keep their text. On demand page tokens count or go stale, and the index is older than its documents.
- `dynamodb`: one call after the other, transactions with a token, and the request units that AWS would charge.
- `ec2`: dry runs, quotas and errors of network ACL entries; quotas, tags and revocation of security group rules;
  addresses of network interfaces.
- `cloudformation`: the transform of SAM, checks of parameters, resources that moto does not make.
- `iam`: policies of roles, users and queues are kept to.
- `lag`: reads that lag behind the writes, on demand.
- `reset`: without what moto's own leaves behind.
- `scheduler`: errors of EventBridge Scheduler, and all of UpdateSchedule.
- `sqs`: SendMessage without a count of the whole queue.
- `sts`: AssumeRole asks the role's trust policy.
- `model_check`: requests are held against AWS's service models.
- `front`: faults, latency and dead connections on demand, a record of the calls, settings of all modules, and SQS's
  refusal of characters outside XML 1.0.
"""
