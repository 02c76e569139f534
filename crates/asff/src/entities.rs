//! What `AiSOC` correlates findings by: the machine and the principal.

use std::borrow::Cow;

use crate::json::Object;

/// Resources that an analyst calls by name where there is no instance.
const NAMED: [&str; 6] = [
    "Container",
    "AwsEcsContainer",
    "AwsEcsTask",
    "AwsEksCluster",
    "AwsLambdaFunction",
    "AwsRdsDbInstance",
];

/// The id of the first instance, else the name of the first container, task, EKS cluster, Lambda function or DB
/// instance. A resource without a name is passed over.
pub(crate) fn hostname<'a>(resources: &[Object<'a>]) -> Option<Cow<'a, str>> {
    first_name(resources, &["AwsEc2Instance"]).or_else(|| first_name(resources, &NAMED))
}

/// The principal of the first access key, else the name of the first IAM user or role.
pub(crate) fn actor<'a>(resources: &[Object<'a>]) -> Option<Cow<'a, str>> {
    let principal = |resource: &Object<'a>| {
        let key = resource.object("Details").object("AwsIamAccessKey");
        key.str("PrincipalName").filter(|name| !name.trim().is_empty())
    };
    resources
        .iter()
        .find_map(principal)
        .or_else(|| first_name(resources, &["AwsIamUser", "AwsIamRole"]))
}

fn first_name<'a>(resources: &[Object<'a>], kinds: &[&str]) -> Option<Cow<'a, str>> {
    let name = |resource: &Object<'a>| {
        let kind = resource.str("Type")?;
        kinds.contains(&kind.as_ref()).then(|| name_of(resource))?
    };
    resources.iter().find_map(name)
}

/// The last part of the ARN; an `Id` that is no ARN is the name itself.
fn name_of<'a>(resource: &Object<'a>) -> Option<Cow<'a, str>> {
    let id = resource.str("Id")?;
    if !id.starts_with("arn:") {
        return Some(id).filter(|id| !id.trim().is_empty());
    }
    // The ARN of a function can have a version or an alias after the name.
    let name = match id.split_once(":function:") {
        Some((_, function)) => function.split(':').next(),
        None => id.rsplit([':', '/']).next(),
    };
    name.filter(|name| !name.is_empty())
        .map(|name| Cow::Owned(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Value;

    fn resources(text: &str) -> Vec<Object<'_>> {
        let value = Value::new(serde_json::from_str(text).unwrap());
        value.as_array().unwrap().into_iter().map(Value::as_object).collect()
    }

    fn hostname_of(text: &str) -> Option<String> {
        hostname(&resources(text)).map(Cow::into_owned)
    }

    fn actor_of(text: &str) -> Option<String> {
        actor(&resources(text)).map(Cow::into_owned)
    }

    #[test]
    fn an_instance_is_called_by_its_id() {
        for id in [
            "arn:aws:ec2:us-east-1:111122223333:instance/i-0123456789abcdef0",
            "arn:aws-us-gov:ec2:us-gov-west-1:111122223333:instance/i-0123456789abcdef0",
            // Amazon Inspector Classic writes it so.
            "arn:aws:ec2:us-east-1:111122223333:i-0123456789abcdef0",
            "i-0123456789abcdef0",
        ] {
            let text = format!(r#"[{{"Type":"AwsEc2Instance","Id":"{id}"}}]"#);
            assert_eq!(hostname_of(&text).as_deref(), Some("i-0123456789abcdef0"), "{id}");
        }
    }

    #[test]
    fn what_runs_elsewhere_is_called_by_the_last_part_of_its_arn() {
        for (kind, id, name) in [
            (
                "Container",
                "arn:aws:ecs:us-east-1:111122223333:container/cluster/task/c0",
                "c0",
            ),
            ("Container", "web", "web"),
            (
                "AwsEcsContainer",
                "arn:aws:ecs:us-east-1:111122223333:container/c1",
                "c1",
            ),
            ("AwsEcsTask", "arn:aws:ecs:us-east-1:111122223333:task/cluster/t1", "t1"),
            (
                "AwsEksCluster",
                "arn:aws:eks:us-east-1:111122223333:cluster/prod",
                "prod",
            ),
            (
                "AwsLambdaFunction",
                "arn:aws:lambda:us-east-1:111122223333:function:pay",
                "pay",
            ),
            (
                "AwsLambdaFunction",
                "arn:aws:lambda:us-east-1:111122223333:function:pay:7",
                "pay",
            ),
            (
                "AwsRdsDbInstance",
                "arn:aws:rds:us-east-1:111122223333:db:orders",
                "orders",
            ),
        ] {
            let text = format!(r#"[{{"Type":"{kind}","Id":"{id}"}}]"#);
            assert_eq!(hostname_of(&text).as_deref(), Some(name), "{id}");
        }
    }

    #[test]
    fn an_instance_comes_before_what_stands_before_it() {
        let text = r#"[
            {"Type":"AwsS3Bucket","Id":"arn:aws:s3:::bucket"},
            {"Type":"AwsEcsTask","Id":"arn:aws:ecs:us-east-1:111122223333:task/cluster/t1"},
            {"Type":"AwsLambdaFunction","Id":"arn:aws:lambda:us-east-1:111122223333:function:pay"},
            {"Type":"AwsEc2Instance","Id":"i-1"},
            {"Type":"AwsEc2Instance","Id":"i-2"}
        ]"#;
        assert_eq!(hostname_of(text).as_deref(), Some("i-1"));
        let text = text.replace("AwsEc2Instance", "Other");
        assert_eq!(hostname_of(&text).as_deref(), Some("t1"));
    }

    #[test]
    fn the_principal_of_an_access_key_comes_before_users_and_roles() {
        let text = r#"[
            {"Type":"AwsIamRole","Id":"arn:aws:iam::111122223333:role/service-role/deployer"},
            {"Type":"AwsIamUser","Id":"arn:aws:iam::111122223333:user/ana"},
            {"Type":"AwsIamAccessKey","Id":"AWS::IAM::AccessKey:AKIAEXAMPLE",
             "Details":{"AwsIamAccessKey":{"PrincipalName":"deploy-bot"}}}
        ]"#;
        assert_eq!(actor_of(text).as_deref(), Some("deploy-bot"));
        let text = text.replace("deploy-bot", " ");
        assert_eq!(actor_of(&text).as_deref(), Some("deployer"));
    }

    #[test]
    fn nothing_is_invented() {
        for text in [
            "[]",
            "[7,null,[]]",
            r#"[{"Type":"AwsS3Bucket","Id":"arn:aws:s3:::bucket"}]"#,
            r#"[{"Type":"AwsEc2Instance"},{"Type":"AwsIamUser","Id":7}]"#,
            r#"[{"Type":"AwsEc2Instance","Id":""},{"Type":"AwsIamUser","Id":"arn:aws:iam::111122223333:user/"}]"#,
            r#"[{"Type":["AwsEc2Instance"],"Id":"i-1","Details":{"AwsIamAccessKey":[{"PrincipalName":"x"}]}}]"#,
            r#"[{"Id":"i-1","Details":"x"}]"#,
        ] {
            assert_eq!((hostname_of(text), actor_of(text)), (None, None), "{text}");
        }
    }
}
