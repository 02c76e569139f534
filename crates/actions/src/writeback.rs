//! Verdicts, written back to findings of Security Hub: the request, and the change of a finding that it takes.

use std::collections::BTreeMap;

use aws_text::Region;
use serde_json::Value;

use crate::members::{Members, shortened};
use crate::request::{Capability, Common, MAX_TEXT, Notes, VENDOR, Vendor, note, params_of, parsed, text};
use crate::{ErrorCode, Refusal};

/// A request about a finding that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Names the request in its result
    pub request_id: String,
    /// By which name the connector is addressed
    pub vendor: Vendor,
    pub verdict: Verdict,
    pub finding: FindingKey,
    /// Where the finding is; the function's own region if not said
    pub region: Option<Region>,
    /// Read and decide, change nothing
    pub dry_run: bool,
    /// Who asked, for the note
    pub requested_by: Option<String>,
    pub notes: Notes,
    /// The alert of AiSOC that the finding became
    pub alert_id: Option<String>,
    /// Whom AiSOC gave the alert to, for the note
    pub owner: Option<String>,
    /// As it was written; recorded in the note, and decides nothing
    pub confidence: Option<String>,
    /// Why, for the note; of any length
    pub rationale: Option<String>,
}

/// What becomes of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Disposition(Disposition),
    /// Someone works on it
    Acknowledged,
    /// It is not to be seen any more
    Suppressed,
}

/// What AiSOC found out about an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    FalsePositive,
    Benign,
    BenignTruePositive,
    TruePositive,
    Escalate,
}

impl Disposition {
    /// Every disposition that can be written.
    pub const ALL: [Self; 5] = [
        Self::FalsePositive,
        Self::Benign,
        Self::BenignTruePositive,
        Self::TruePositive,
        Self::Escalate,
    ];

    /// AiSOC's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FalsePositive => "false_positive",
            Self::Benign => "benign",
            Self::BenignTruePositive => "benign_true_positive",
            Self::TruePositive => "true_positive",
            Self::Escalate => "escalate",
        }
    }

    /// In any case, with blanks and hyphens for underscores.
    fn from_name(name: &str) -> Option<Self> {
        let name = name.trim_matches(' ').to_ascii_lowercase().replace([' ', '-'], "_");
        Self::ALL.into_iter().find(|disposition| disposition.as_str() == name)
    }
}

impl Verdict {
    /// What a request calls it.
    #[must_use]
    pub fn capability(self) -> Capability {
        match self {
            Self::Disposition(_) => Capability::UpdateAlertDisposition,
            Self::Acknowledged => Capability::AckAlert,
            Self::Suppressed => Capability::SuppressAlert,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Disposition(disposition) => disposition.as_str(),
            Self::Acknowledged => "acknowledged",
            Self::Suppressed => "suppressed",
        }
    }

    /// AiSOC's word for what is done to the finding.
    #[must_use]
    pub fn action(self) -> &'static str {
        match self {
            Self::Disposition(Disposition::TruePositive | Disposition::Escalate) => "escalate",
            Self::Disposition(_) => "close",
            Self::Acknowledged => "acknowledge",
            Self::Suppressed => "suppress",
        }
    }

    /// `Workflow.Status`. What may be an attack is never closed.
    #[must_use]
    pub fn workflow_status(self) -> &'static str {
        match self {
            Self::Disposition(Disposition::FalsePositive | Disposition::Benign | Disposition::BenignTruePositive) => {
                "RESOLVED"
            }
            Self::Disposition(Disposition::TruePositive | Disposition::Escalate) | Self::Acknowledged => "NOTIFIED",
            Self::Suppressed => "SUPPRESSED",
        }
    }

    /// `VerificationState`.
    #[must_use]
    pub fn verification_state(self) -> Option<&'static str> {
        match self {
            Self::Disposition(Disposition::FalsePositive) => Some("FALSE_POSITIVE"),
            Self::Disposition(Disposition::Benign | Disposition::BenignTruePositive) => Some("BENIGN_POSITIVE"),
            Self::Disposition(Disposition::TruePositive | Disposition::Escalate) => Some("TRUE_POSITIVE"),
            Self::Acknowledged | Self::Suppressed => None,
        }
    }

    /// `status_id` of OCSF: 2 is In Progress, 3 Suppressed, 4 Resolved.
    #[must_use]
    pub fn status_id(self) -> i32 {
        match self.workflow_status() {
            "RESOLVED" => 4,
            "SUPPRESSED" => 3,
            _ => 2,
        }
    }
}

/// Which finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindingKey {
    /// The finding's id: an event's `external_id`
    pub id: String,
    pub product: Product,
}

/// What makes a finding's id unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Product {
    /// Of Security Hub CSPM: the product's ARN; where it is not known, the only product with the id
    Asff(Option<String>),
    /// Of Security Hub (V2): `metadata.uid`
    Ocsf(String),
}

/// The most characters of a finding's id (`Id` in the syntax of ASFF).
pub(crate) const MAX_ID: usize = 512;

const TARGET: &str = "a finding's id, an event's external_id: a string of 1 to 512 characters";
const DISPOSITION: &str = "\"false_positive\", \"benign\", \"benign_true_positive\", \"true_positive\" or \"escalate\" (with \
                           any other the finding stays as it is)";
const CONFIDENCE: &str = "a number from 0 to 1";
const ALERT_ID: &str = "a string of 1 to 512 characters";
const PRODUCT_ARN: &str = "a product's ARN, an event's product_arn";
const METADATA_UID: &str = "a finding's metadata.uid: 1 to 512 characters without blanks";

impl Request {
    pub(crate) fn of(members: &mut Members, capability: Capability, common: &mut Common) -> Option<Self> {
        let id = crate::request::required(members, "target", TARGET, self::id);
        let mut params = params_of(members)?;
        let verdict = verdict(&mut params, capability);
        let region = parsed(&mut params, "aws_region");
        let product = product(&mut params);
        let alert_id = params.optional("aisoc_alert_id", ALERT_ID, self::id);
        let owner = note(&mut params, "owner");
        let confidence = params.optional("confidence", CONFIDENCE, |value| {
            let number = value.as_number()?;
            (0.0..=1.0).contains(&number.as_f64()?).then(|| number.to_string())
        });
        // By this AiSOC's action service chooses among its own arms.
        params.optional("alert_vendor", VENDOR, |value| Vendor::from_name(value.as_str()?));
        let given = params.optional("rationale", "a string", |value| match value {
            Value::Null => Some(None),
            value => text(value).map(Some),
        });
        if let (Some(inner), Some(outer)) = (given.clone().flatten(), &common.notes.rationale)
            && inner != *outer
        {
            params.problem("rationale", "and rationale must agree where both stand");
        }
        members.add_problems_of(params);
        let rationale = given.flatten().or_else(|| common.notes.rationale.clone());
        common.notes.rationale = rationale.as_deref().map(|text| cut(text, MAX_TEXT));
        Some(Self {
            request_id: common.request_id.clone()?,
            vendor: common.vendor,
            verdict: verdict?,
            finding: FindingKey {
                id: id?,
                product: product?,
            },
            region,
            dry_run: common.dry_run,
            requested_by: common.requested_by.clone(),
            notes: common.notes.clone(),
            alert_id,
            owner,
            confidence,
            rationale,
        })
    }

    /// The note: who decided what, about which alert, and why. It holds nothing that another delivery of the request would
    /// say otherwise.
    #[must_use]
    pub fn note(&self) -> String {
        let given = |text: &&String| !text.trim().is_empty();
        let details = [
            ("by", &self.requested_by),
            ("alert", &self.alert_id),
            ("owner", &self.owner),
            ("confidence", &self.confidence),
        ];
        let mut note = format!("AiSOC: {}", self.verdict.as_str());
        for (name, value) in details {
            if let Some(value) = value.as_ref().filter(given) {
                note.extend([", ", name, " ", &shortened(value)]);
            }
        }
        if let Some(why) = self.rationale.as_ref().filter(given) {
            note.extend([": ", why]);
        }
        cut(&printable(&note), MAX_NOTE)
    }
}

/// The most characters of a note (`Note.Text` in the syntax of ASFF, `Comment` of `BatchUpdateFindingsV2`).
const MAX_NOTE: usize = 512;

/// Who the connector's notes are by.
pub const UPDATED_BY: &str = "aisoc";

/// The first characters, with a mark where some are left out.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Without what consoles and queues do not take.
fn printable(text: &str) -> String {
    let is_legal = |c: char| !c.is_control() && u32::from(c) & 0xfffe != 0xfffe;
    text.chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => ' ',
            c if is_legal(c) => c,
            _ => char::REPLACEMENT_CHARACTER,
        })
        .collect()
}

fn verdict(params: &mut Members, capability: Capability) -> Option<Verdict> {
    if capability == Capability::UpdateAlertDisposition {
        let disposition = crate::request::required(params, "disposition", DISPOSITION, |value| {
            value.as_str().and_then(Disposition::from_name)
        });
        return disposition.map(Verdict::Disposition);
    }
    if params.has("disposition") {
        params.raw("disposition");
        params.problem("disposition", "belongs to update_alert_disposition alone");
    }
    Some(match capability {
        Capability::SuppressAlert => Verdict::Suppressed,
        _ => Verdict::Acknowledged,
    })
}

/// `None` where it is wrong.
fn product(params: &mut Members) -> Option<Product> {
    let arn = params.optional("aws_product_arn", PRODUCT_ARN, product_arn);
    let uid = params.optional("aws_metadata_uid", METADATA_UID, |value| {
        let is_uid = |uid: &String| (1..=MAX_ID).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_graphic());
        text(value).filter(is_uid)
    });
    match (params.has("aws_product_arn"), params.has("aws_metadata_uid")) {
        (true, true) => {
            params.problem(
                "aws_metadata_uid",
                "is of a finding of Security Hub (V2), and params.aws_product_arn of one of Security Hub CSPM: give one",
            );
            None
        }
        (true, false) => arn.map(|arn| Product::Asff(Some(arn))),
        (false, true) => uid.map(Product::Ocsf),
        (false, false) => Some(Product::Asff(None)),
    }
}

fn id(value: &Value) -> Option<String> {
    text(value).filter(|id| {
        (1..=MAX_ID).contains(&id.chars().count()) && !id.trim().is_empty() && !id.chars().any(char::is_control)
    })
}

fn product_arn(value: &Value) -> Option<String> {
    let arn = value.as_str().filter(|arn| arn.len() <= MAX_ID)?;
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", partition, "securityhub", region, account, resource] = parts.as_slice() else {
        return None;
    };
    let is_partition = *partition == "aws"
        || partition
            .strip_prefix("aws-")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
    let is_region = region
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let is_account = account.bytes().all(|b| b.is_ascii_digit());
    let is_product = resource
        .strip_prefix("product/")
        .is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()));
    (is_partition && is_region && is_account && is_product).then(|| arn.to_owned())
}

/// The settings that decide whether verdicts may be written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `WRITE_BACK`
    pub is_enabled: bool,
    /// `SECURITY_HUB_REGIONS`
    pub regions: Vec<Region>,
}

impl Policy {
    /// What can be checked before anything is read.
    ///
    /// # Errors
    /// `write_back_not_enabled` or `region_not_allowed`.
    pub fn check(&self, region: &Region) -> Result<(), Refusal> {
        if !self.is_enabled {
            return Err(Refusal::new(
                ErrorCode::WriteBackNotEnabled,
                "verdicts are not written to Security Hub: WRITE_BACK is not true",
                "deploy the stack with EnableWriteBack=true, which also gives the function the right to do so",
            ));
        }
        if !self.regions.contains(region) {
            let regions: Vec<&str> = self.regions.iter().map(Region::as_str).collect();
            return Err(Refusal::new(
                ErrorCode::RegionNotAllowed,
                format!(
                    "findings of {region} are none of this stack's: it has those of {}",
                    regions.join(", ")
                ),
                "correct params.aws_region, or add the region to SECURITY_HUB_REGIONS (the parameter SecurityHubRegions)",
            ));
        }
        Ok(())
    }
}

/// A finding, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// Of Security Hub CSPM
    pub product_arn: Option<String>,
    pub account_id: Option<String>,
    /// Of Security Hub CSPM
    pub workflow_status: Option<String>,
    /// Of Security Hub CSPM
    pub verification_state: Option<String>,
    /// Of Security Hub (V2)
    pub status_id: Option<i32>,
    /// The note, or in V2 the comment
    pub note: Option<String>,
    /// Of Security Hub CSPM: who the note is by
    pub updated_by: Option<String>,
    /// Of Security Hub CSPM
    pub fields: BTreeMap<String, String>,
}

/// The one finding that a request is about.
///
/// # Errors
/// `finding_not_found` where there is none, `invalid_request` where several products have one with the id.
pub fn the_one(mut found: Vec<Finding>, key: &FindingKey, region: &Region) -> Result<Finding, Refusal> {
    const NAMED: usize = 10;
    if found.len() > 1 {
        let mut products: Vec<&str> = found
            .iter()
            .filter_map(|finding| finding.product_arn.as_deref())
            .collect();
        products.truncate(NAMED);
        return Err(Refusal::new(
            ErrorCode::InvalidRequest,
            format!(
                "{} products have a finding with this id: {}",
                found.len(),
                products.join(", ")
            ),
            "name one of them in params.aws_product_arn (an event's product_arn)",
        ));
    }
    found.pop().ok_or_else(|| not_found(key, region))
}

/// The refusal of a request whose finding is not there, or no longer.
#[must_use]
pub fn not_found(key: &FindingKey, region: &Region) -> Refusal {
    let (what, member) = match &key.product {
        Product::Asff(None) => ("this id".to_owned(), "target"),
        Product::Asff(Some(arn)) => (format!("this id of {arn}"), "target, params.aws_product_arn"),
        Product::Ocsf(uid) => (
            format!("the metadata.uid {}", shortened(uid)),
            "params.aws_metadata_uid",
        ),
    };
    Refusal::new(
        ErrorCode::FindingNotFound,
        format!("Security Hub has no finding with {what} in {region}"),
        format!("correct {member} or params.aws_region; Security Hub deletes findings 90 days after their last update"),
    )
}

/// What a finding is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    pub verdict: Verdict,
    pub note: String,
    /// `UserDefinedFields`: those that the finding has, and ours. Security Hub does not say that it keeps the others
    pub fields: BTreeMap<String, String>,
    is_ocsf: bool,
}

/// The most `UserDefinedFields` of a finding (the syntax of ASFF).
const MAX_FIELDS: usize = 50;

impl Update {
    /// What the request takes, of the finding as it is.
    #[must_use]
    pub fn of(request: &Request, finding: &Finding) -> Self {
        let mut fields = finding.fields.clone();
        let disposition = match request.verdict {
            Verdict::Disposition(disposition) => Some(disposition.as_str().to_owned()),
            Verdict::Acknowledged | Verdict::Suppressed => None,
        };
        for (name, value) in [
            ("aisoc_alert_id", request.alert_id.as_deref().map(printable)),
            ("aisoc_disposition", disposition),
        ] {
            if let Some(value) = value
                && (fields.len() < MAX_FIELDS || fields.contains_key(name))
            {
                fields.insert(name.to_owned(), value);
            }
        }
        Self {
            verdict: request.verdict,
            note: request.note(),
            fields,
            is_ocsf: matches!(request.finding.product, Product::Ocsf(_)),
        }
    }

    /// What is left to do, one by one; nothing where the finding is so already.
    #[must_use]
    pub fn steps(&self, finding: &Finding) -> Vec<String> {
        let mut steps = Vec::new();
        let mut set = |name: &str, value: &str, is_so: bool| {
            if !is_so {
                steps.push(format!("set {name} to {value}"));
            }
        };
        if self.is_ocsf {
            let id = self.verdict.status_id();
            set("status_id", &id.to_string(), finding.status_id == Some(id));
            set(
                "comment",
                &format!("{:?}", self.note),
                finding.note.as_ref() == Some(&self.note),
            );
            return steps;
        }
        let status = self.verdict.workflow_status();
        set(
            "Workflow.Status",
            status,
            finding.workflow_status.as_deref() == Some(status),
        );
        if let Some(state) = self.verdict.verification_state() {
            set(
                "VerificationState",
                state,
                finding.verification_state.as_deref() == Some(state),
            );
        }
        for (name, value) in &self.fields {
            let is_so = finding.fields.get(name) == Some(value);
            set(&format!("UserDefinedFields.{name}"), value, is_so);
        }
        let is_noted = finding.note.as_ref() == Some(&self.note) && finding.updated_by.as_deref() == Some(UPDATED_BY);
        set("Note", &format!("{:?} by {UPDATED_BY}", self.note), is_noted);
        steps
    }

    /// For a summary.
    #[must_use]
    pub fn told(&self) -> String {
        if self.is_ocsf {
            return format!("status_id {}", self.verdict.status_id());
        }
        let status = self.verdict.workflow_status();
        match self.verdict.verification_state() {
            Some(state) => format!("{status}, {state}"),
            None => status.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::request::{Asked, Rejection};

    const ID: &str = "arn:aws:guardduty:us-east-1:111122223333:detector/d0/finding/f0";
    const GUARDDUTY: &str = "arn:aws:securityhub:us-east-1::product/aws/guardduty";

    fn minimal() -> Value {
        json!({"request_id": "r-1", "capability": "update_alert_disposition", "target": ID,
               "params": {"disposition": "false_positive"}})
    }

    fn read(body: &Value) -> Result<Request, Box<Rejection>> {
        Asked::read(&body.to_string(), "message-1").map(|asked| match asked {
            Asked::WriteBack(request) => *request,
            Asked::Block(request) => panic!("{request:?}"),
        })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut body = minimal();
        body["params"][name] = value;
        body
    }

    fn message(body: &Value) -> String {
        read(body).unwrap_err().refusal.message
    }

    #[test]
    fn defaults() {
        let request = read(&minimal()).unwrap();
        assert_eq!(request.verdict, Verdict::Disposition(Disposition::FalsePositive));
        assert_eq!((request.vendor, request.dry_run), (Vendor::SecurityHub, false));
        assert_eq!((request.region, request.requested_by), (None, None));
        assert_eq!(
            request.finding,
            FindingKey {
                id: ID.to_owned(),
                product: Product::Asff(None)
            }
        );
        assert_eq!(request.notes, Notes::default());
    }

    #[test]
    fn every_member_can_be_given() {
        let body = json!({
            "request_id": "r-2", "action": "ACK_ALERT", "vendor_id": "aws_security_hub", "target": "finding 1",
            "params": {"aws_region": "eu-west-1", "aws_product_arn": GUARDDUTY, "aisoc_alert_id": "a-1", "owner": "bob",
                       "confidence": 0.97, "rationale": "why", "alert_vendor": "aws_security_hub"},
            "dry_run": true, "requested_by": "ana", "case_id": "c", "playbook_run_id": "p", "tenant_id": "t",
            "event_id": "e", "rationale": "why", "auth_config": null,
        });
        let request = read(&body).unwrap();
        assert_eq!(request.verdict, Verdict::Acknowledged);
        assert_eq!(request.finding.product, Product::Asff(Some(GUARDDUTY.to_owned())));
        assert_eq!(request.region, Some("eu-west-1".parse().unwrap()));
        assert_eq!(request.notes.rationale.as_deref(), Some("why"));
        assert_eq!(
            request.note(),
            "AiSOC: acknowledged, by ana, alert a-1, owner bob, confidence 0.97: why"
        );
        let v2 = with("aws_metadata_uid", json!("uid-1"));
        assert_eq!(read(&v2).unwrap().finding.product, Product::Ocsf("uid-1".to_owned()));
    }

    #[test]
    fn a_disposition_is_taken_with_capitals_hyphens_and_blanks() {
        for (name, disposition) in [
            ("FALSE_POSITIVE", Disposition::FalsePositive),
            ("False Positive", Disposition::FalsePositive),
            (" false-positive ", Disposition::FalsePositive),
            ("Benign", Disposition::Benign),
            ("benign-true positive", Disposition::BenignTruePositive),
            ("true-positive", Disposition::TruePositive),
            ("ESCALATE", Disposition::Escalate),
        ] {
            let request = read(&with("disposition", json!(name))).unwrap();
            assert_eq!(request.verdict, Verdict::Disposition(disposition), "{name}");
        }
        for name in [
            "needs_review",
            "unknown",
            "",
            "false",
            "falsepositive",
            "true_positive?",
        ] {
            let message = message(&with("disposition", json!(name)));
            let expected = format!("params.disposition must be {DISPOSITION}, not {name:?}");
            assert_eq!(message, expected);
        }
        let mut missing = minimal();
        missing["params"] = json!({});
        assert_eq!(
            message(&missing),
            format!("params.disposition is missing: {DISPOSITION}")
        );
    }

    #[test]
    fn what_may_be_an_attack_is_never_closed() {
        use Disposition::{Benign, BenignTruePositive, Escalate, FalsePositive, TruePositive};
        for (verdict, status, state, id, action) in [
            (
                Verdict::Disposition(FalsePositive),
                "RESOLVED",
                Some("FALSE_POSITIVE"),
                4,
                "close",
            ),
            (
                Verdict::Disposition(Benign),
                "RESOLVED",
                Some("BENIGN_POSITIVE"),
                4,
                "close",
            ),
            (
                Verdict::Disposition(BenignTruePositive),
                "RESOLVED",
                Some("BENIGN_POSITIVE"),
                4,
                "close",
            ),
            (
                Verdict::Disposition(TruePositive),
                "NOTIFIED",
                Some("TRUE_POSITIVE"),
                2,
                "escalate",
            ),
            (
                Verdict::Disposition(Escalate),
                "NOTIFIED",
                Some("TRUE_POSITIVE"),
                2,
                "escalate",
            ),
            (Verdict::Acknowledged, "NOTIFIED", None, 2, "acknowledge"),
            (Verdict::Suppressed, "SUPPRESSED", None, 3, "suppress"),
        ] {
            assert_eq!(
                (
                    verdict.workflow_status(),
                    verdict.verification_state(),
                    verdict.status_id(),
                    verdict.action()
                ),
                (status, state, id, action)
            );
        }
    }

    #[test]
    fn every_refusal_names_the_member_and_what_it_should_be() {
        for (name, value, expected) in [
            (
                "confidence",
                json!(2),
                "params.confidence must be a number from 0 to 1, not 2",
            ),
            (
                "confidence",
                json!(-0.1),
                "params.confidence must be a number from 0 to 1, not -0.1",
            ),
            (
                "confidence",
                json!("high"),
                "params.confidence must be a number from 0 to 1, not \"high\"",
            ),
            (
                "aisoc_alert_id",
                json!(" "),
                "params.aisoc_alert_id must be a string of 1 to 512 characters, not \" \"",
            ),
            (
                "owner",
                json!(7),
                "params.owner must be a string of at most 512 characters, not 7",
            ),
            (
                "aws_region",
                json!("Ireland"),
                "params.aws_region must be a region's code such as us-east-1, not \"Ireland\"",
            ),
            (
                "aws_product_arn",
                json!("guardduty"),
                "params.aws_product_arn must be a product's ARN, an event's product_arn, not \"guardduty\"",
            ),
            (
                "aws_metadata_uid",
                json!("a b"),
                "params.aws_metadata_uid must be a finding's metadata.uid: 1 to 512 characters without blanks, not \"a b\"",
            ),
            (
                "alert_vendor",
                json!("splunk"),
                "params.alert_vendor must be \"aws_security_hub\" or \"aws_security_groups\", not \"splunk\"",
            ),
            ("rationale", json!(7), "params.rationale must be a string, not 7"),
        ] {
            assert_eq!(message(&with(name, value)), expected);
        }
        let unknown = message(&with("dispositon", json!("benign")));
        assert!(
            unknown.starts_with("params.dispositon is not known; known are disposition, "),
            "{unknown}"
        );
        let mut both = with("aws_product_arn", json!(GUARDDUTY));
        both["params"]["aws_metadata_uid"] = json!("uid-1");
        assert!(message(&both).ends_with("of Security Hub CSPM: give one"));
        let mut ack = minimal();
        ack["capability"] = json!("ack_alert");
        assert_eq!(
            message(&ack),
            "params.disposition belongs to update_alert_disposition alone"
        );
        let mut group = minimal();
        group["params"]["aws_security_group_id"] = json!("sg-0123abcd");
        assert!(message(&group).starts_with("params.aws_security_group_id is not known"));
    }

    #[test]
    fn a_finding_has_an_id() {
        for bad in [json!(""), json!(" "), json!("a\u{0}"), json!("x".repeat(513)), json!(7)] {
            let mut body = minimal();
            body["target"] = bad;
            assert!(message(&body).starts_with("target must be a finding's id"));
        }
        let mut body = minimal();
        body["target"] = json!("é".repeat(512));
        assert!(read(&body).is_ok());
        body.as_object_mut().unwrap().remove("target");
        assert_eq!(message(&body), format!("target is missing: {TARGET}"));
    }

    #[test]
    fn product_arns_are_read_as_security_hub_writes_them() {
        for arn in [
            GUARDDUTY,
            "arn:aws:securityhub:us-east-1:111122223333:product/111122223333/default",
            "arn:aws-us-gov:securityhub:us-gov-west-1::product/aws/config",
            "arn:aws:securityhub:::product/a:b/c",
        ] {
            assert!(read(&with("aws_product_arn", json!(arn))).is_ok(), "{arn}");
        }
        let long = format!("arn:aws:securityhub:::product/{}", "x".repeat(512));
        for arn in [
            "arn:aws:securityhub:::product/",
            "arn:awsx:securityhub:::product/a",
            "arn:aws-:securityhub:::product/a",
            "arn:aws:guardduty:::product/a",
            "arn:aws:securityhub:US:1:product/a",
            "arn:aws:securityhub::x:product/a",
            "arn:aws:securityhub:::hub/default",
            "arn:aws:securityhub:::product/a b",
            &long,
        ] {
            assert!(read(&with("aws_product_arn", json!(arn))).is_err(), "{arn}");
        }
    }

    #[test]
    fn a_note_is_short_and_printable_whatever_was_given() {
        let request = |why: &str| read(&with("rationale", json!(why))).unwrap();
        for why in [
            "x".repeat(10_000),
            "é".repeat(512),
            "\u{ffff}\u{fffe}\u{1fffe}\u{7f}\n".repeat(10_000),
        ] {
            let request = request(&why);
            let note = request.note();
            assert_eq!(note.chars().count(), 512);
            assert!(note.ends_with('…') && note.starts_with("AiSOC: false_positive: "));
            assert!(!note.chars().any(|c| c.is_control() || u32::from(c) & 0xfffe == 0xfffe));
            assert!(request.notes.rationale.unwrap().chars().count() <= 512);
        }
        assert_eq!(request("a\nb\u{ffff}").note(), "AiSOC: false_positive: a b\u{fffd}");
        assert_eq!(request(" ").note(), "AiSOC: false_positive");
        assert_eq!(cut(&"x".repeat(512), 512), "x".repeat(512));
        assert_eq!(cut(&"x".repeat(513), 512), format!("{}…", "x".repeat(511)));
        let mut both = with("rationale", json!("one"));
        both["rationale"] = json!("other");
        assert_eq!(
            message(&both),
            "params.rationale and rationale must agree where both stand"
        );
        let mut long = minimal();
        long["requested_by"] = json!("x".repeat(512));
        long["params"]["owner"] = json!("y".repeat(512));
        long["rationale"] = json!("why");
        assert!(
            read(&long).unwrap().note().ends_with("…: why"),
            "why is told all the same"
        );
    }

    fn region() -> Region {
        "us-east-1".parse().unwrap()
    }

    #[test]
    fn verdicts_are_opt_in_and_for_the_regions_that_are_polled() {
        let policy = |is_enabled| Policy {
            is_enabled,
            regions: vec![region()],
        };
        assert_eq!(policy(true).check(&region()), Ok(()));
        assert_eq!(
            policy(false).check(&region()).unwrap_err().code,
            ErrorCode::WriteBackNotEnabled
        );
        let refusal = policy(true).check(&"eu-west-1".parse().unwrap()).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::RegionNotAllowed);
        assert_eq!(
            refusal.message,
            "findings of eu-west-1 are none of this stack's: it has those of us-east-1"
        );
    }

    fn finding(product: &str) -> Finding {
        Finding {
            product_arn: Some(product.to_owned()),
            workflow_status: Some("NEW".to_owned()),
            fields: [("theirs".to_owned(), "kept".to_owned())].into(),
            ..Finding::default()
        }
    }

    #[test]
    fn one_finding_is_meant_or_none_is_touched() {
        let key = read(&minimal()).unwrap().finding;
        let one = |found| the_one(found, &key, &region());
        assert_eq!(one(vec![finding(GUARDDUTY)]), Ok(finding(GUARDDUTY)));
        assert_eq!(one(vec![]).unwrap_err().code, ErrorCode::FindingNotFound);
        let refusal = one(vec![finding(GUARDDUTY), finding("arn:other")]).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::InvalidRequest);
        assert_eq!(
            refusal.message,
            format!("2 products have a finding with this id: {GUARDDUTY}, arn:other")
        );
        let many: Vec<Finding> = (0..100).map(|n| finding(&format!("arn:{n}"))).collect();
        assert!(one(many).unwrap_err().message.ends_with("arn:9"));
    }

    /// The finding once the update is made.
    fn after(update: &Update, mut finding: Finding) -> Finding {
        finding.workflow_status = Some(update.verdict.workflow_status().to_owned());
        let state = update.verdict.verification_state().map(str::to_owned);
        finding.verification_state = state.or(finding.verification_state);
        finding.note = Some(update.note.clone());
        finding.updated_by = Some(UPDATED_BY.to_owned());
        finding.fields.clone_from(&update.fields);
        finding
    }

    #[test]
    fn an_update_names_what_is_left_to_do_and_nothing_twice() {
        let request = read(&with("aisoc_alert_id", json!("a-1"))).unwrap();
        let before = finding(GUARDDUTY);
        let update = Update::of(&request, &before);
        assert_eq!(
            update.steps(&before),
            [
                "set Workflow.Status to RESOLVED",
                "set VerificationState to FALSE_POSITIVE",
                "set UserDefinedFields.aisoc_alert_id to a-1",
                "set UserDefinedFields.aisoc_disposition to false_positive",
                "set Note to \"AiSOC: false_positive, alert a-1\" by aisoc",
            ]
        );
        let done = after(&update, before);
        assert_eq!(done.fields["theirs"], "kept");
        let again = Update::of(&request, &done);
        assert_eq!(again.steps(&done), [""; 0]);
        assert_eq!(again.told(), "RESOLVED, FALSE_POSITIVE");
        // WHEN an analyst writes a note of the same text, or opens it again
        let by_analyst = Finding {
            updated_by: Some("ana".to_owned()),
            ..done.clone()
        };
        assert_eq!(again.steps(&by_analyst).len(), 1);
        let reopened = Finding {
            workflow_status: Some("NEW".to_owned()),
            ..done
        };
        assert_eq!(again.steps(&reopened), ["set Workflow.Status to RESOLVED"]);
    }

    #[test]
    fn an_acknowledgement_says_nothing_of_the_verification() {
        let mut body = minimal();
        body["capability"] = json!("ack_alert");
        body["params"] = json!({});
        let update = Update::of(&read(&body).unwrap(), &finding(GUARDDUTY));
        assert_eq!((update.told().as_str(), update.fields.len()), ("NOTIFIED", 1));
        assert_eq!(
            update.steps(&finding(GUARDDUTY)),
            [
                "set Workflow.Status to NOTIFIED",
                "set Note to \"AiSOC: acknowledged\" by aisoc"
            ]
        );
    }

    #[test]
    fn a_finding_with_all_the_fields_it_may_have_keeps_them() {
        let full = |count: usize| Finding {
            fields: (0..count).map(|n| (format!("f{n}"), String::new())).collect(),
            ..finding(GUARDDUTY)
        };
        let request = read(&with("aisoc_alert_id", json!("a-1"))).unwrap();
        assert_eq!(Update::of(&request, &full(50)).fields.len(), 50);
        let fields = Update::of(&request, &full(49)).fields;
        assert_eq!((fields.len(), fields.contains_key("aisoc_alert_id")), (50, true));
    }

    #[test]
    fn a_finding_of_v2_gets_a_status_and_a_comment() {
        let request = read(&with("aws_metadata_uid", json!("uid-1"))).unwrap();
        let before = Finding {
            status_id: Some(1),
            ..Finding::default()
        };
        let update = Update::of(&request, &before);
        assert_eq!(
            update.steps(&before),
            ["set status_id to 4", "set comment to \"AiSOC: false_positive\""]
        );
        let done = Finding {
            status_id: Some(4),
            note: Some(update.note.clone()),
            ..before
        };
        assert_eq!((update.steps(&done), update.told().as_str()), (vec![], "status_id 4"));
    }
}
