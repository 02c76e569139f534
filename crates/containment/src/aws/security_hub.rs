//! Findings of Security Hub, in both of its formats.

use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;

use actions::writeback::{Finding, FindingKey, Product, UPDATED_BY, Update};
use aws_config::SdkConfig;
use aws_sdk_securityhub::Client;
use aws_sdk_securityhub::types::{
    AllowedOperators, AwsSecurityFinding, AwsSecurityFindingFilters, AwsSecurityFindingIdentifier,
    BatchUpdateFindingsV2UnprocessedFindingErrorCode, CompositeFilter, NoteUpdate, OcsfFindingFilters, OcsfStringField,
    OcsfStringFilter, StringFilter, StringFilterComparison, VerificationState, WorkflowStatus, WorkflowUpdate,
};
use aws_smithy_types::Document;
use aws_support::credentials::StaticKey;
use aws_support::{AwsError, Deadline, ErrorKind, call};
use aws_text::Region;

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
    clients: std::sync::Mutex<HashMap<Region, Client>>,
}

impl SecurityHub {
    /// Reached with the configuration's credentials; `key` is the static one among them, if there is one.
    #[must_use]
    pub fn new(config: SdkConfig, key: StaticKey) -> Self {
        Self {
            config,
            key,
            clients: std::sync::Mutex::default(),
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
            Product::Asff(arn) => find_asff(&client, &key.id, arn.as_deref(), deadline).await,
            Product::Ocsf(uid) => find_ocsf(&client, uid, deadline).await,
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

async fn find_asff(
    client: &Client,
    id: &str,
    product_arn: Option<&str>,
    deadline: &Deadline,
) -> Result<Vec<Finding>, AwsError> {
    let filters = AwsSecurityFindingFilters::builder()
        .id(equals(id))
        .set_product_arn(product_arn.map(|arn| vec![equals(arn)]))
        .build();
    let request = client.get_findings().filters(filters).max_results(100);
    let answer = call(GET_FINDINGS, deadline, request.send()).await?;
    Ok(answer.findings.unwrap_or_default().into_iter().map(of_asff).collect())
}

fn of_asff(finding: AwsSecurityFinding) -> Finding {
    let (note, updated_by) = finding.note.map(|note| (note.text, note.updated_by)).unzip();
    let workflow = finding.workflow.and_then(|workflow| workflow.status);
    Finding {
        product_arn: finding.product_arn,
        account_id: finding.aws_account_id,
        workflow_status: workflow.map(|status| status.as_str().to_owned()),
        verification_state: finding.verification_state.map(|state| state.as_str().to_owned()),
        status_id: None,
        note: note.flatten(),
        updated_by: updated_by.flatten(),
        fields: finding.user_defined_fields.into_iter().flatten().collect(),
    }
}

async fn find_ocsf(client: &Client, uid: &str, deadline: &Deadline) -> Result<Vec<Finding>, AwsError> {
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
    let request = client.get_findings_v2().filters(filters).max_results(100);
    let answer = call(GET_FINDINGS, deadline, request.send()).await?;
    Ok(answer.findings().iter().map(of_ocsf).collect())
}

fn of_ocsf(finding: &Document) -> Finding {
    let member = |document: &Document, name: &str| document.as_object()?.get(name).cloned();
    let text = |document: Option<Document>| document.and_then(|document| document.as_string().map(str::to_owned));
    let account = member(finding, "cloud").and_then(|cloud| member(&cloud, "account"));
    let status_id = member(finding, "status_id").and_then(|id| id.as_number().map(|id| id.to_f64_lossy()));
    Finding {
        account_id: text(account.and_then(|account| member(&account, "uid"))),
        // Other numbers are none that OCSF has.
        status_id: [0, 1, 2, 3, 4, 5, 99]
            .into_iter()
            .find(|known| status_id == Some(f64::from(*known))),
        note: text(member(finding, "comment")),
        product_arn: None,
        workflow_status: None,
        verification_state: None,
        updated_by: None,
        fields: BTreeMap::new(),
    }
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
    use std::time::Duration;

    use actions::Asked;
    use aws_sdk_securityhub::operation::batch_update_findings::BatchUpdateFindingsOutput;
    use aws_sdk_securityhub::operation::batch_update_findings_v2::BatchUpdateFindingsV2Output;
    use aws_sdk_securityhub::operation::get_findings::{GetFindingsError, GetFindingsOutput};
    use aws_sdk_securityhub::operation::get_findings_v2::GetFindingsV2Output;
    use aws_sdk_securityhub::types::{
        BatchUpdateFindingsUnprocessedFinding, BatchUpdateFindingsV2ProcessedFinding,
        BatchUpdateFindingsV2UnprocessedFinding, Note, Workflow,
    };
    use aws_smithy_mocks::{Rule, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::{Value, json};

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

    #[tokio::test]
    async fn a_finding_is_looked_up_by_its_id_and_where_it_is_known_its_product() {
        let found = mock!(Client::get_findings)
            .match_requests(|r| {
                let filters = r.filters().unwrap();
                filters.id() == [equals(ID)] && filters.product_arn().is_empty()
            })
            .then_output(|| {
                let finding = AwsSecurityFinding::builder()
                    .id(ID)
                    .product_arn(GUARDDUTY)
                    .aws_account_id("111122223333")
                    .workflow(Workflow::builder().status(WorkflowStatus::New).build())
                    .verification_state(VerificationState::FalsePositive)
                    .note(Note::builder().text("note").updated_by("ana").build())
                    .user_defined_fields("a", "b")
                    .build();
                GetFindingsOutput::builder().findings(finding).build()
            });
        let finding = Finding {
            product_arn: Some(GUARDDUTY.to_owned()),
            account_id: Some("111122223333".to_owned()),
            workflow_status: Some("NEW".to_owned()),
            verification_state: Some("FALSE_POSITIVE".to_owned()),
            status_id: None,
            note: Some("note".to_owned()),
            updated_by: Some("ana".to_owned()),
            fields: [("a".to_owned(), "b".to_owned())].into(),
        };
        let hub = hub(&[&found]);
        assert_eq!(
            hub.find(&region(), &key(Product::Asff(None)), &deadline())
                .await
                .unwrap(),
            [finding]
        );
        let of_product = mock!(Client::get_findings)
            .match_requests(|r| r.filters().unwrap().product_arn() == [equals(GUARDDUTY)])
            .then_output(|| GetFindingsOutput::builder().build());
        let hub = self::hub(&[&of_product]);
        assert_eq!(hub.find(&region(), &of_guardduty(), &deadline()).await.unwrap(), []);
        assert_eq!(of_product.num_calls(), 1);
    }

    #[tokio::test]
    async fn a_bare_finding_is_read_too() {
        let found = mock!(Client::get_findings).then_output(|| {
            GetFindingsOutput::builder()
                .findings(AwsSecurityFinding::builder().build())
                .build()
        });
        let found = hub(&[&found]).find(&region(), &of_guardduty(), &deadline()).await;
        assert_eq!(found.unwrap(), [Finding::default()]);
    }

    #[tokio::test]
    async fn a_failed_call_names_its_right() {
        let denied = mock!(Client::get_findings)
            .then_error(|| GetFindingsError::generic(ErrorMetadata::builder().code("AccessDeniedException").build()));
        let found = hub(&[&denied]).find(&region(), &of_guardduty(), &deadline()).await;
        let error = found.unwrap_err();
        assert_eq!((error.action, error.kind), (GET_FINDINGS, ErrorKind::AccessDenied));
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

    fn document(value: &Value) -> Document {
        match value {
            Value::Object(members) => Document::Object(
                members
                    .iter()
                    .map(|(name, value)| (name.clone(), document(value)))
                    .collect(),
            ),
            Value::String(text) => Document::String(text.clone()),
            Value::Number(number) => Document::Number(aws_smithy_types::Number::PosInt(number.as_u64().unwrap())),
            _ => Document::Null,
        }
    }

    #[tokio::test]
    async fn a_finding_of_v2_is_looked_up_and_changed_by_its_metadata_uid() {
        let found = mock!(Client::get_findings_v2)
            .match_requests(|r| {
                let composite = &r.filters().unwrap().composite_filters()[0];
                let filter = &composite.string_filters()[0];
                filter.field_name() == Some(&OcsfStringField::MetadataUid) && filter.filter() == Some(&equals("uid-1"))
            })
            .then_output(|| {
                let finding = json!({"status_id": 1, "comment": "c", "cloud": {"account": {"uid": "111122223333"}}});
                GetFindingsV2Output::builder()
                    .findings(document(&finding))
                    .findings(document(&json!({"status_id": 77, "cloud": 7})))
                    .build()
            });
        let key = key(Product::Ocsf("uid-1".to_owned()));
        let findings = hub(&[&found]).find(&region(), &key, &deadline()).await.unwrap();
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
        let done = hub(&[&updated]).update(&region(), &key, &update, &deadline()).await;
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
            let answer = hub(&[&unprocessed]).update(&region(), &key, &update, &deadline()).await;
            assert_eq!(answer.err().map(|error| error.kind), kind);
        }
    }
}
