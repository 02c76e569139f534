"""CloudFormation as AWS has it, over moto's: SAM's transform, the checks of parameters, and what moto cannot make.

moto leaves the Serverless resources of a template out, so that a `sam deploy` ends well and has made none of them; it
takes any value for a parameter; and it does not know schedules, queue policies, alarms and the asynchronous settings of
functions. A stack that a change set makes has no outputs with it. The name it gives to a FIFO queue does not end in
.fifo; it leaves what is no value in lists, and writes the policies of roles in no JSON.
"""

import json
import re
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

from moto.awslambda.models import EventSourceMapping, LambdaBackend, LambdaFunction, lambda_backends
from moto.cloudformation import parsing
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import CloudFormationBackend, Stack
from moto.cloudwatch.models import cloudwatch_backends
from moto.core.common_models import CloudFormationModel
from moto.iam.models import Role
from moto.scheduler.models import scheduler_backends
from moto.sqs.models import Queue, sqs_backends
from samtranslator.model.exceptions import InvalidDocumentException
from samtranslator.translator.managed_policy_translator import ManagedPolicyLoader
from samtranslator.translator.transform import transform

_SERVERLESS = "AWS::Serverless-2016-10-31"


@lru_cache(maxsize=8)
def _transformed(template: str) -> str:
    """What CloudFormation makes of a template before it looks at the resources."""
    parsed = Stack.parse_template(template)
    if parsed.get("Transform") != _SERVERLESS:
        return json.dumps(parsed, default=str)
    try:
        made = transform(parsed, {}, ManagedPolicyLoader(None))
    except InvalidDocumentException as error:
        raise ValidationError(message=f"Transform {_SERVERLESS} failed: {error.message}") from None
    return json.dumps({**made, "Transform": None})


def _checked_parameters(template: str, given: dict[str, Any]) -> dict[str, Any]:
    """The values as CloudFormation takes them: of a list without the white space around its elements. Refuses the first
    that breaks the rules of its parameter ("Parameters" in the CloudFormation user guide)."""
    declared = Stack.parse_template(template).get("Parameters", {})
    for name in given:
        if name not in declared:
            raise ValidationError(message=f"Parameters: [{name}] do not exist in the template")
    for name, rules in declared.items():
        value = given.get(name, rules.get("Default"))
        if value is None:
            raise ValidationError(message=f"Parameters: [{name}] must have values")
        if rules["Type"] == "CommaDelimitedList" and name in given:
            given = {**given, name: ",".join(element.strip() for element in value.split(","))}
        problem = _problem(str(value), rules)
        if problem:
            why = rules.get("ConstraintDescription", problem)
            raise ValidationError(message=f"Parameter {name} failed to satisfy constraint: {why}")
    return given


def _problem(value: str, rules: dict[str, Any]) -> str | None:
    # A list's pattern is that of each element.
    elements = [e.strip() for e in value.split(",")] if rules["Type"] == "CommaDelimitedList" else [value]
    pattern = rules.get("AllowedPattern")
    if pattern and not all(re.fullmatch(pattern, element) for element in elements):
        return f"Member must satisfy regular expression pattern: {pattern}"
    allowed = rules.get("AllowedValues")
    if allowed and value not in [str(each) for each in allowed]:
        return f"Member must satisfy enum value set: {allowed}"
    if len(value) > int(rules.get("MaxLength", len(value))):
        return f"Member must have length less than or equal to {rules['MaxLength']}"
    if rules["Type"] == "Number":
        if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value):
            return "must be a number"
        low, high = rules.get("MinValue"), rules.get("MaxValue")
        if (low is not None and float(value) < low) or (high is not None and float(value) > high):
            return f"must be from {low} to {high}"
    return None


def _taking_templates(operation: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(operation)
    def checked(self: CloudFormationBackend, *, template: str, parameters: dict[str, Any], **more: Any) -> Any:
        template = _transformed(template)
        parameters = _checked_parameters(template, parameters)
        return operation(self, template=template, parameters=parameters, **more)

    return checked


class _Made(CloudFormationModel):
    """A resource that moto's other services know and its CloudFormation does not."""

    def __init__(self, physical_resource_id: str, **attributes: str):
        self.physical_resource_id = physical_resource_id
        self._attributes = attributes

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return attr == "Arn"

    def get_cfn_attribute(self, attribute_name: str) -> str:
        return self._attributes[attribute_name]

    def delete(self, account_id: str, region_name: str) -> None:
        """It goes with its service's own call; no test deletes a stack and looks for it."""


def _makes(kind: str, name_property: str = "") -> Callable[[Callable[..., _Made]], type[CloudFormationModel]]:
    def register(make: Callable[..., _Made]) -> type[CloudFormationModel]:
        def create(
            _: type, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **__: Any
        ) -> _Made:
            return make(resource_name, cloudformation_json["Properties"], account_id, region_name)

        def update(
            cls: type, _: Any, new_resource_name: str, cloudformation_json: Any, account_id: str, region_name: str
        ) -> _Made:
            return create(cls, new_resource_name, cloudformation_json, account_id, region_name)

        members = {
            "cloudformation_type": staticmethod(lambda: kind),
            "cloudformation_name_type": staticmethod(lambda: name_property),
            "create_from_cloudformation_json": classmethod(create),
            "update_from_cloudformation_json": classmethod(update),
            "has_cfn_attr": _Made.has_cfn_attr,
        }
        return type(kind.replace("::", ""), (CloudFormationModel,), members)

    return register


@_makes("AWS::Scheduler::ScheduleGroup", "Name")
def _schedule_group(name: str, _: Any, account: str, region: str) -> _Made:
    group = scheduler_backends[account][region].create_schedule_group(name, [])
    return _Made(name, Arn=group.arn)


@_makes("AWS::Scheduler::Schedule", "Name")
def _schedule(name: str, properties: Any, account: str, region: str) -> _Made:
    backend = scheduler_backends[account][region]
    backend.get_schedule_group(properties.get("GroupName")).schedules.pop(name, None)  # an update replaces it
    schedule = backend.create_schedule(
        description=properties.get("Description"),
        end_date=properties.get("EndDate"),
        flexible_time_window=properties["FlexibleTimeWindow"],
        group_name=properties.get("GroupName"),
        kms_key_arn=properties.get("KmsKeyArn"),
        name=name,
        schedule_expression=properties["ScheduleExpression"],
        schedule_expression_timezone=properties.get("ScheduleExpressionTimezone"),
        start_date=properties.get("StartDate"),
        state=properties.get("State"),
        target=properties["Target"],
        action_after_completion=None,
    )
    return _Made(name, Arn=schedule.arn)


@_makes("AWS::SQS::QueuePolicy")
def _queue_policy(name: str, properties: Any, account: str, region: str) -> _Made:
    for url in properties["Queues"]:
        queue = sqs_backends[account][region].get_queue(url.rpartition("/")[2])
        queue.policy = json.dumps(properties["PolicyDocument"])
    return _Made(name)


@_makes("AWS::S3::BucketPolicy")
def _bucket_policy(name: str, _: Any, __: str, ___: str) -> _Made:
    """Of the bucket that the SAM CLI makes. moto would keep to it, but not to its condition: TLS."""
    return _Made(name)


@_makes("AWS::Lambda::EventInvokeConfig")
def _event_invoke_config(name: str, properties: Any, account: str, region: str) -> _Made:
    config = {key: value for key, value in properties.items() if key not in ("FunctionName", "Qualifier")}
    lambda_backends[account][region].put_function_event_invoke_config(properties["FunctionName"], config)
    return _Made(name)


@_makes("AWS::CloudWatch::Alarm", "AlarmName")
def _alarm(name: str, properties: Any, account: str, region: str) -> _Made:
    alarm = cloudwatch_backends[account][region].put_metric_alarm(
        name=name,
        namespace=properties.get("Namespace"),
        metric_name=properties.get("MetricName"),
        # Each element has a query's members; which, no test of ours asks moto.
        metric_data_queries=None,
        comparison_operator=properties["ComparisonOperator"],
        evaluation_periods=int(properties["EvaluationPeriods"]),
        datapoints_to_alarm=int(properties.get("DatapointsToAlarm", properties["EvaluationPeriods"])),
        period=properties.get("Period"),
        threshold=float(properties["Threshold"]),
        statistic=properties.get("Statistic"),
        description=properties["AlarmDescription"],
        dimensions=properties.get("Dimensions", []),
        alarm_actions=properties.get("AlarmActions", []),
        ok_actions=properties.get("OKActions", []),
        treat_missing_data=properties.get("TreatMissingData"),
    )
    return _Made(name, Arn=alarm.alarm_arn)


def _without_no_value(clean_json: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(clean_json)
    def cleaned(resource_json: Any, resources_map: Any) -> Any:
        value = clean_json(resource_json, resources_map)
        return [each for each in value if each is not None] if isinstance(value, list) else value

    return cleaned


def _creating(
    kind: type[CloudFormationModel], prepare: Callable[[str, dict[str, Any]], tuple[str, dict[str, Any]]]
) -> None:
    """Lets a resource be made from another name or other properties than moto would take."""
    create = kind.create_from_cloudformation_json.__func__

    @wraps(create)
    def prepared(cls: type, resource_name: str, cloudformation_json: Any, *where: str, **more: Any) -> Any:
        name, properties = prepare(resource_name, cloudformation_json["Properties"])
        return create(cls, name, {**cloudformation_json, "Properties": properties}, *where, **more)

    kind.create_from_cloudformation_json = classmethod(prepared)


def _queue(name: str, properties: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    suffix = ".fifo" if properties.get("FifoQueue") else ""
    return name.removesuffix(suffix)[: 80 - len(suffix)] + suffix, properties


def _role(name: str, properties: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    policies = [
        {**policy, "PolicyDocument": json.dumps(policy["PolicyDocument"])} for policy in properties.get("Policies", [])
    ]
    return name, {**properties, "Policies": policies}


def _function(name: str, properties: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Environment variables are text, whatever the parameters were."""
    variables = properties.get("Environment", {}).get("Variables", {})
    return name, {**properties, "Environment": {"Variables": {key: str(value) for key, value in variables.items()}}}


def install() -> None:
    """Puts this module's answers in the place of moto's."""
    parse_template = Stack.parse_template
    # YAML reads JSON as well, a hundred times slower.
    Stack.parse_template = staticmethod(
        lambda template: json.loads(template) if template.startswith("{") else parse_template(template)
    )
    parsing.clean_json = _without_no_value(parsing.clean_json)
    for kind, prepare in ((Queue, _queue), (Role, _role), (LambdaFunction, _function)):
        _creating(kind, prepare)
    for name in ("create_stack", "create_change_set", "update_stack"):
        setattr(CloudFormationBackend, name, _taking_templates(getattr(CloudFormationBackend, name)))

    execute = CloudFormationBackend.execute_change_set

    @wraps(execute)
    def execute_change_set(self: CloudFormationBackend, change_set_name: str, stack_name: str | None = None) -> None:
        execute(self, change_set_name, stack_name)
        stack = self.get_stack(self.describe_change_set(change_set_name).stack_id)
        stack._parse_template()
        stack.output_map = stack._create_output_map()

    CloudFormationBackend.execute_change_set = execute_change_set

    create_mapping = LambdaBackend.create_event_source_mapping

    @wraps(create_mapping)
    def create_event_source_mapping(self: LambdaBackend, spec: dict[str, Any]) -> EventSourceMapping:
        """As moto, which would then run the function in a container of its own whenever a message comes."""
        mapping = create_mapping(self, spec)
        for queue in sqs_backends[self.account_id][self.region_name].queues.values():
            queue.lambda_event_source_mappings.pop(mapping.function_arn, None)
        return mapping

    LambdaBackend.create_event_source_mapping = create_event_source_mapping
