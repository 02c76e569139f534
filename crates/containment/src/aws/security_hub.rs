//! Findings of Security Hub, in both of its formats.
//!
//! A finding is read as JSON, and not by the SDK: see [`aws_support::capture`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use actions::writeback::{Finding, FindingKey, Product, UPDATED_BY, Update};
use aws_config::SdkConfig;
use aws_sdk_securityhub::Client;
use aws_sdk_securityhub::types::{
    AllowedOperators, AwsSecurityFindingFilters, AwsSecurityFindingIdentifier,
    BatchUpdateFindingsV2UnprocessedFindingErrorCode, CompositeFilter, NoteUpdate, OcsfFindingFilters, OcsfStringField,
    OcsfStringFilter, StringFilter, StringFilterComparison, VerificationState, WorkflowStatus, WorkflowUpdate,
};
use aws_support::capture::Capture;
use aws_support::credentials::StaticKey;
use aws_support::{AwsError, Deadline, ErrorKind, call};
use aws_text::Region;
use serde::Deserialize;
use serde_json::Value;

use crate::ports::{Findings, Updated};

/// The IAM action of `GetFindings` and `GetFindingsV2`.
const GET_FINDINGS: &str = "securityhub:GetFindings";
/// The IAM action of `BatchUpdateFindings` and `BatchUpdateFindingsV2`.
const UPDATE_FINDINGS: &str = "securityhub:BatchUpdateFindings";

/// Security Hub, in whatever region.
#[derive(Debug)]
pub struct SecurityHub {
    config: SdkConfig,
    key: StaticKey,
    clients: Mutex<HashMap<Region, Client>>,
}

impl SecurityHub {
    /// Reached with the configuration's credentials; `key` is the static one among them, if there is one.
    #[must_use]
    pub fn new(config: SdkConfig, key: StaticKey) -> Self {
        Self {
            config,
            key,
            clients: Mutex::default(),
        }
    }

    fn client(&self, region: &Region) -> Client {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients.entry(region.clone()).or_insert_with(|| {
            let config = aws_sdk_securityhub::config::Builder::from(&self.config)
                .region(aws_sdk_securityhub::config::Region::new(region.as_str().to_owned()));
            Client::from_conf(config.build())
        });
        client.clone()
    }
}

impl Findings for SecurityHub {
    async fn find(&self, region: &Region, key: &FindingKey, deadline: &Deadline) -> Result<Vec<Finding>, AwsError> {
        let client = self.client(region);
        match &key.product {
            Product::Asff(arn) => self.find_asff(&client, &key.id, arn.as_deref(), deadline).await,
            Product::Ocsf(uid) => self.find_ocsf(&client, uid, deadline).await,
        }
    }

    async fn update(
        &self,
        region: &Region,
        key: &FindingKey,
        update: &Update,
        deadline: &Deadline,
    ) -> Result<Updated, AwsError> {
        let client = self.client(region);
        match &key.product {
            Product::Asff(arn) => {
                update_asff(&client, &key.id, arn.as_deref().unwrap_or_default(), update, deadline).await
            }
            Product::Ocsf(uid) => update_ocsf(&client, uid, update, deadline).await,
        }
    }

    async fn forget(&self) {
        self.key.forget().await;
    }
}

fn equals(value: &str) -> StringFilter {
    StringFilter::builder()
        .comparison(StringFilterComparison::Equals)
        .value(value)
        .build()
}

impl SecurityHub {
    async fn find_asff(
        &self,
        client: &Client,
        id: &str,
        product_arn: Option<&str>,
        deadline: &Deadline,
    ) -> Result<Vec<Finding>, AwsError> {
        let filters = AwsSecurityFindingFilters::builder()
            .id(equals(id))
            .set_product_arn(product_arn.map(|arn| vec![equals(arn)]))
            .build();
        let capture = self.capture()?;
        let request = client.get_findings().filters(filters).max_results(100);
        let request = request.customize().config_override(captured_by(&capture));
        call(GET_FINDINGS, deadline, request.send()).await?;
        Ok(findings(&capture)?.iter().map(of_asff).collect())
    }

    async fn find_ocsf(&self, client: &Client, uid: &str, deadline: &Deadline) -> Result<Vec<Finding>, AwsError> {
        let filter = OcsfStringFilter::builder()
            .field_name(OcsfStringField::MetadataUid)
            .filter(equals(uid))
            .build();
        let all_of = CompositeFilter::builder()
            .string_filters(filter)
            .operator(AllowedOperators::And)
            .build();
        let filters = OcsfFindingFilters::builder()
            .composite_filters(all_of)
            .composite_operator(AllowedOperators::And)
            .build();
        let capture = self.capture()?;
        let request = client.get_findings_v2().filters(filters).max_results(100);
        let request = request.customize().config_override(captured_by(&capture));
        call(GET_FINDINGS, deadline, request.send()).await?;
        Ok(findings(&capture)?.iter().map(of_ocsf).collect())
    }

    fn capture(&self) -> Result<Capture, AwsError> {
        let inner = self
            .config
            .http_client()
            .ok_or_else(|| unreadable("there is no HTTP client"))?;
        Ok(Capture::new(inner))
    }
}

fn unreadable(what: &str) -> AwsError {
    AwsError::new(GET_FINDINGS, ErrorKind::Unreachable, what.to_owned())
}

fn of_asff(finding: &Value) -> Finding {
    let text = |pointer: &str| finding.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let fields = finding.get("UserDefinedFields").and_then(Value::as_object);
    let fields = fields.into_iter().flatten();
    Finding {
        product_arn: text("/ProductArn"),
        account_id: text("/AwsAccountId"),
        workflow_status: text("/Workflow/Status"),
        verification_state: text("/VerificationState"),
        status_id: None,
        note: text("/Note/Text"),
        updated_by: text("/Note/UpdatedBy"),
        fields: fields
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
    }
}

fn of_ocsf(finding: &Value) -> Finding {
    let text = |pointer: &str| finding.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let status_id = finding.get("status_id").and_then(Value::as_i64);
    Finding {
        account_id: text("/cloud/account/uid"),
        status_id: status_id.and_then(|id| i32::try_from(id).ok()),
        note: text("/comment"),
        ..Finding::default()
    }
}

#[derive(Deserialize)]
struct Page {
    #[serde(rename = "Findings")]
    findings: Vec<Value>,
}

/// The findings of a captured answer.
fn findings(capture: &Capture) -> Result<Vec<Value>, AwsError> {
    let page: Page = serde_json::from_slice(&capture.take().unwrap_or_default())
        .map_err(|error| unreadable(&format!("the answer cannot be read: {error}")))?;
    Ok(page.findings)
}

fn captured_by(capture: &Capture) -> aws_sdk_securityhub::config::Builder {
    aws_sdk_securityhub::config::Builder::default().http_client(capture.clone())
}

async fn update_asff(
    client: &Client,
    id: &str,
    product_arn: &str,
    update: &Update,
    deadline: &Deadline,
) -> Result<Updated, AwsError> {
    let finding = AwsSecurityFindingIdentifier::builder().id(id).product_arn(product_arn);
    let note = NoteUpdate::builder().text(&update.note).updated_by(UPDATED_BY);
    let workflow = WorkflowUpdate::builder()
        .status(WorkflowStatus::from(update.verdict.workflow_status()))
        .build();
    let fields: HashMap<String, String> = update.fields.clone().into_iter().collect();
    let request = client
        .batch_update_findings()
        .finding_identifiers(finding.build())
        .note(note.build())
        .workflow(workflow)
        .set_verification_state(update.verdict.verification_state().map(VerificationState::from))
        .set_user_defined_fields((!fields.is_empty()).then_some(fields));
    let answer = call(UPDATE_FINDINGS, deadline, request.send()).await?;
    match answer.unprocessed_findings().first() {
        Some(refused) => refused_with(
            refused.error_code().unwrap_or_default(),
            refused.error_message().unwrap_or_default(),
        ),
        None => confirmed(!answer.processed_findings().is_empty()),
    }
}

async fn update_ocsf(client: &Client, uid: &str, update: &Update, deadline: &Deadline) -> Result<Updated, AwsError> {
    let request = client
        .batch_update_findings_v2()
        .metadata_uids(uid)
        .status_id(update.verdict.status_id())
        .comment(&update.note);
    let answer = call(UPDATE_FINDINGS, deadline, request.send()).await?;
    match answer.unprocessed_findings().first() {
        Some(refused) => refused_with(
            refused
                .error_code()
                .map(BatchUpdateFindingsV2UnprocessedFindingErrorCode::as_str)
                .unwrap_or_default(),
            refused.error_message().unwrap_or_default(),
        ),
        None => confirmed(!answer.processed_findings().is_empty()),
    }
}

/// A good answer can hold the finding among those that were not changed. The codes are those of "Unprocessed findings" of
/// `BatchUpdateFindings` in the Security Hub API reference, and of `BatchUpdateFindingsV2UnprocessedFinding`.
fn refused_with(code: &str, message: &str) -> Result<Updated, AwsError> {
    let kind = match code {
        "FindingNotFound" | "ResourceNotFoundException" => return Ok(Updated::NoSuchFinding),
        "ConcurrentUpdateError" | "InternalFailure" | "InternalServerException" | "ConflictException" => {
            ErrorKind::Unreachable
        }
        _ => ErrorKind::Rejected,
    };
    Err(AwsError {
        code: Some(code.to_owned()),
        ..AwsError::new(UPDATE_FINDINGS, kind, message.to_owned())
    })
}

fn confirmed(is_processed: bool) -> Result<Updated, AwsError> {
    if is_processed {
        return Ok(Updated::Yes);
    }
    let message = "the answer does not name the finding".to_owned();
    Err(AwsError::new(UPDATE_FINDINGS, ErrorKind::Unreachable, message))
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::body::SdkBody;
    use std::time::Duration;

    use actions::Asked;
    use aws_config::BehaviorVersion;
    use aws_credential_types::Credentials;
    use aws_credential_types::provider::SharedCredentialsProvider;
    use aws_sdk_securityhub::operation::batch_update_findings::BatchUpdateFindingsOutput;
    use aws_sdk_securityhub::operation::batch_update_findings_v2::BatchUpdateFindingsV2Output;
    use aws_sdk_securityhub::types::{
        BatchUpdateFindingsUnprocessedFinding, BatchUpdateFindingsV2ProcessedFinding,
        BatchUpdateFindingsV2UnprocessedFinding,
    };
    use aws_smithy_async::rt::sleep::TokioSleep;
    use aws_smithy_http_client::test_util::{ReplayEvent, StaticReplayClient};
    use aws_smithy_mocks::{Rule, mock};
    use serde_json::json;

    use super::*;
    use crate::testing::mock_client;

    const ID: &str = "finding-1";
    const GUARDDUTY: &str = "arn:aws:securityhub:us-east-1::product/aws/guardduty";

    fn hub(rules: &[&Rule]) -> SecurityHub {
        let hub = SecurityHub::new(SdkConfig::builder().build(), StaticKey::default());
        let client = mock_client!(aws_sdk_securityhub, rules);
        hub.clients.lock().unwrap().insert(region(), client);
        hub
    }

    fn region() -> Region {
        "us-east-1".parse().unwrap()
    }

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_mins(1))
    }

    fn key(product: Product) -> FindingKey {
        FindingKey {
            id: ID.to_owned(),
            product,
        }
    }

    fn of_guardduty() -> FindingKey {
        key(Product::Asff(Some(GUARDDUTY.to_owned())))
    }

    fn update(capability: &str, params: &Value, finding: &Finding) -> Update {
        let body = json!({"request_id": "r", "capability": capability, "target": ID, "params": params});
        match Asked::read(&body.to_string(), "m").unwrap() {
            Asked::WriteBack(request) => Update::of(&request, finding),
            Asked::Block(request) => panic!("{request:?}"),
        }
    }

    fn identifier() -> AwsSecurityFindingIdentifier {
        let identifier = AwsSecurityFindingIdentifier::builder().id(ID).product_arn(GUARDDUTY);
        identifier.build()
    }

    /// Security Hub with these answers to reads, and what it is asked.
    fn reading(answers: &[(u16, &str)]) -> (SecurityHub, StaticReplayClient) {
        let event = |(status, body): &(u16, &str)| {
            let answer = http::Response::builder()
                .status(*status)
                .header("content-length", "999");
            ReplayEvent::new(
                http::Request::new(SdkBody::empty()),
                answer.body(SdkBody::from(*body)).unwrap(),
            )
        };
        let http = StaticReplayClient::new(answers.iter().map(event).collect());
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http.clone())
            .sleep_impl(TokioSleep::new())
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                "id", "secret", None, None, "test",
            )))
            .build();
        (SecurityHub::new(config, StaticKey::default()), http)
    }

    fn asked(http: &StaticReplayClient) -> Value {
        let request = http.actual_requests().last().unwrap();
        assert!(request.uri().contains("securityhub.us-east-1"));
        serde_json::from_slice(request.body().bytes().unwrap()).unwrap()
    }

    async fn find(hub: &SecurityHub, product: Product) -> Result<Vec<Finding>, AwsError> {
        hub.find(&region(), &key(product), &deadline()).await
    }

    #[tokio::test]
    async fn a_finding_is_looked_up_by_its_id_and_where_it_is_known_its_product() {
        let body = r#"{"Findings": [{"ProductArn": "arn:a", "AwsAccountId": "111122223333", "Workflow": {"Status": "NEW"},
            "VerificationState": "UNKNOWN", "Note": {"Text": "note", "UpdatedBy": "ana"}, "UserDefinedFields": {"a": "b"}}]}"#;
        let (hub, http) = reading(&[(200, body), (200, r#"{"Findings": []}"#)]);
        let finding = Finding {
            product_arn: Some("arn:a".to_owned()),
            account_id: Some("111122223333".to_owned()),
            workflow_status: Some("NEW".to_owned()),
            verification_state: Some("UNKNOWN".to_owned()),
            status_id: None,
            note: Some("note".to_owned()),
            updated_by: Some("ana".to_owned()),
            fields: [("a".to_owned(), "b".to_owned())].into(),
        };
        assert_eq!(find(&hub, Product::Asff(None)).await.unwrap(), [finding]);
        let id = json!([{"Value": ID, "Comparison": "EQUALS"}]);
        assert_eq!(asked(&http), json!({"Filters": {"Id": id}, "MaxResults": 100}));
        assert_eq!(find(&hub, Product::Asff(Some(GUARDDUTY.to_owned()))).await.unwrap(), []);
        let product = json!([{"Value": GUARDDUTY, "Comparison": "EQUALS"}]);
        assert_eq!(asked(&http)["Filters"], json!({"Id": id, "ProductArn": product}));
    }

    #[tokio::test]
    async fn a_finding_is_read_whatever_its_members_are() {
        let body =
            r#"{"Findings": [{}, {"Severity": 7, "Workflow": "NEW", "Note": [], "UserDefinedFields": {"a": 1}}]}"#;
        let (hub, _) = reading(&[(200, body)]);
        let found = find(&hub, Product::Asff(None)).await.unwrap();
        assert_eq!(found, [Finding::default(), Finding::default()]);
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error_and_no_empty_list() {
        for (status, body, kind) in [
            (200, "{\"Findings\": [", ErrorKind::Unreachable),
            (200, "{}", ErrorKind::Unreachable),
            (403, r#"{"__type": "AccessDeniedException"}"#, ErrorKind::AccessDenied),
        ] {
            let (hub, _) = reading(&[(status, body)]);
            let error = find(&hub, Product::Asff(None)).await.unwrap_err();
            assert_eq!((error.action, error.kind), (GET_FINDINGS, kind));
        }
        let without_client = SecurityHub::new(SdkConfig::builder().build(), StaticKey::default());
        let client = mock_client!(aws_sdk_securityhub, &[]);
        without_client.clients.lock().unwrap().insert(region(), client);
        assert!(find(&without_client, Product::Asff(None)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_read_is_made_again() {
        let throttled = (429, r#"{"__type": "TooManyRequestsException"}"#);
        let (hub, http) = reading(&[throttled, (200, r#"{"Findings": [{}]}"#)]);
        assert_eq!(find(&hub, Product::Asff(None)).await.unwrap().len(), 1);
        assert_eq!(http.actual_requests().count(), 2);
    }

    #[tokio::test]
    async fn an_update_is_what_security_hub_is_asked() {
        let before = Finding {
            fields: [("theirs".to_owned(), "kept".to_owned())].into(),
            ..Finding::default()
        };
        let params = json!({"disposition": "true_positive", "aisoc_alert_id": "a-1"});
        let updated = mock!(Client::batch_update_findings)
            .match_requests(|r| {
                let note = r.note().unwrap();
                let fields = r.user_defined_fields().unwrap();
                r.finding_identifiers() == [identifier()]
                    && r.workflow().unwrap().status() == Some(&WorkflowStatus::Notified)
                    && r.verification_state() == Some(&VerificationState::TruePositive)
                    && (note.text(), note.updated_by()) == (Some("AiSOC: true_positive, alert a-1"), Some("aisoc"))
                    && (
                        fields["theirs"].as_str(),
                        fields["aisoc_alert_id"].as_str(),
                        fields.len(),
                    ) == ("kept", "a-1", 3)
                    && (r.severity(), r.confidence(), r.criticality()) == (None, None, None)
                    && r.types().is_empty()
                    && r.related_findings().is_empty()
            })
            .then_output(|| {
                BatchUpdateFindingsOutput::builder()
                    .processed_findings(identifier())
                    .build()
            });
        let update = update("update_alert_disposition", &params, &before);
        let done = hub(&[&updated])
            .update(&region(), &of_guardduty(), &update, &deadline())
            .await;
        assert_eq!(done.unwrap(), Updated::Yes);
        let acknowledged = mock!(Client::batch_update_findings)
            .match_requests(|r| r.verification_state().is_none() && r.user_defined_fields().is_none())
            .then_output(|| {
                BatchUpdateFindingsOutput::builder()
                    .processed_findings(identifier())
                    .build()
            });
        let update = self::update("ack_alert", &json!({}), &Finding::default());
        let done = hub(&[&acknowledged])
            .update(&region(), &of_guardduty(), &update, &deadline())
            .await;
        assert_eq!(done.unwrap(), Updated::Yes);
    }

    #[tokio::test]
    async fn what_is_not_processed_is_told_by_its_code() {
        for (code, kind) in [
            ("FindingNotFound", None),
            ("ConcurrentUpdateError", Some(ErrorKind::Unreachable)),
            ("InternalFailure", Some(ErrorKind::Unreachable)),
            ("FindingSizeExceeded", Some(ErrorKind::Rejected)),
        ] {
            let unprocessed = mock!(Client::batch_update_findings).then_output(move || {
                let finding = BatchUpdateFindingsUnprocessedFinding::builder()
                    .finding_identifier(identifier())
                    .error_code(code)
                    .error_message("said so");
                BatchUpdateFindingsOutput::builder()
                    .unprocessed_findings(finding.build())
                    .build()
            });
            let update = update("suppress_alert", &json!({}), &Finding::default());
            let hub = hub(&[&unprocessed]);
            let answer = hub.update(&region(), &of_guardduty(), &update, &deadline()).await;
            match kind {
                None => assert_eq!(answer.unwrap(), Updated::NoSuchFinding),
                Some(kind) => {
                    let error = answer.unwrap_err();
                    assert_eq!(
                        (error.kind, error.has_code(code), error.action),
                        (kind, true, UPDATE_FINDINGS)
                    );
                }
            }
        }
        let silent = mock!(Client::batch_update_findings).then_output(|| BatchUpdateFindingsOutput::builder().build());
        let update = update("suppress_alert", &json!({}), &Finding::default());
        let answer = hub(&[&silent])
            .update(&region(), &of_guardduty(), &update, &deadline())
            .await;
        assert_eq!(answer.unwrap_err().kind, ErrorKind::Unreachable);
    }

    #[tokio::test]
    async fn a_finding_of_v2_is_looked_up_and_changed_by_its_metadata_uid() {
        let body = r#"{"Findings": [{"status_id": 1, "comment": "c", "cloud": {"account": {"uid": "111122223333"}}},
                                    {"status_id": 1e40, "cloud": 7}]}"#;
        let (hub, http) = reading(&[(200, body)]);
        let key = key(Product::Ocsf("uid-1".to_owned()));
        let findings = hub.find(&region(), &key, &deadline()).await.unwrap();
        let filter = json!({"FieldName": "metadata.uid", "Filter": {"Value": "uid-1", "Comparison": "EQUALS"}});
        let composite = json!({"StringFilters": [filter], "Operator": "AND"});
        let filters = json!({"CompositeFilters": [composite], "CompositeOperator": "AND"});
        assert_eq!(asked(&http)["Filters"], filters);
        let expected = Finding {
            account_id: Some("111122223333".to_owned()),
            status_id: Some(1),
            note: Some("c".to_owned()),
            ..Finding::default()
        };
        assert_eq!(findings, [expected, Finding::default()]);
        let update = update(
            "update_alert_disposition",
            &json!({"disposition": "benign", "aws_metadata_uid": "uid-1"}),
            &findings[0],
        );
        let updated = mock!(Client::batch_update_findings_v2)
            .match_requests(|r| {
                r.metadata_uids() == ["uid-1"]
                    && (r.status_id(), r.comment(), r.severity_id()) == (Some(4), Some("AiSOC: benign"), None)
            })
            .then_output(|| {
                let processed = BatchUpdateFindingsV2ProcessedFinding::builder()
                    .metadata_uid("uid-1")
                    .build();
                BatchUpdateFindingsV2Output::builder()
                    .processed_findings(processed)
                    .build()
            });
        let done = self::hub(&[&updated])
            .update(&region(), &key, &update, &deadline())
            .await;
        assert_eq!(done.unwrap(), Updated::Yes);
        for (code, kind) in [
            ("ResourceNotFoundException", None),
            ("ConflictException", Some(ErrorKind::Unreachable)),
            ("ValidationException", Some(ErrorKind::Rejected)),
        ] {
            let unprocessed = mock!(Client::batch_update_findings_v2).then_output(move || {
                let finding = BatchUpdateFindingsV2UnprocessedFinding::builder().error_code(code.into());
                BatchUpdateFindingsV2Output::builder()
                    .unprocessed_findings(finding.build())
                    .build()
            });
            let answer = self::hub(&[&unprocessed])
                .update(&region(), &key, &update, &deadline())
                .await;
            assert_eq!(answer.err().map(|error| error.kind), kind);
        }
    }
}
