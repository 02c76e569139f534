//! EC2, as far as a `BLOCK_IP` needs it: one enrolled group attached to nothing, in a VPC with one network ACL. It
//! keeps the rule and the deny entry until the next reset.

use crate::http::{Answer, Request};

/// The group that a block is asked for with.
pub const GROUP: &str = "sg-0123456789abcdef0";
const VPC: &str = "vpc-0123456789abcdef0";
const ACL: &str = "acl-0123456789abcdef0";

/// What was put into the network.
#[derive(Debug, Default)]
pub struct Network {
    rule: Option<Vec<(String, String)>>,
    entry: Option<Vec<(String, String)>>,
}

impl Network {
    /// Whether rule and deny entry are there.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.rule.is_some() && self.entry.is_some()
    }

    /// The answer, with the action's name; `None` where it is no call of EC2's.
    pub fn answer(&mut self, request: &Request) -> Option<(String, Answer)> {
        let body = str::from_utf8(&request.body).ok()?;
        let form: Vec<(String, String)> = body
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), decode(value)))
            .collect();
        let action = value(&form, "Action")?.to_owned();
        let inner = match action.as_str() {
            "DescribeSecurityGroups" => format!(
                "<securityGroupInfo><item><ownerId>123456789012</ownerId><groupId>{GROUP}</groupId>\
                 <groupName>blocklist</groupName><groupDescription>d</groupDescription><vpcId>{VPC}</vpcId>\
                 <tagSet><item><key>aisoc:containment</key><value>blocklist</value></item></tagSet>\
                 <ipPermissions/><ipPermissionsEgress/></item></securityGroupInfo>"
            ),
            "DescribeSecurityGroupRules" => format!(
                "<securityGroupRuleSet>{}</securityGroupRuleSet>",
                self.rule.as_deref().map(rule).unwrap_or_default()
            ),
            "DescribeNetworkInterfaces" => "<networkInterfaceSet/>".to_owned(),
            "DescribeVpcs" => format!(
                "<vpcSet><item><vpcId>{VPC}</vpcId><cidrBlock>10.0.0.0/16</cidrBlock><cidrBlockAssociationSet><item>\
                 <cidrBlock>10.0.0.0/16</cidrBlock><cidrBlockState><state>associated</state></cidrBlockState></item>\
                 </cidrBlockAssociationSet></item></vpcSet>"
            ),
            "DescribeNetworkAcls" => format!(
                "<networkAclSet><item><networkAclId>{ACL}</networkAclId><vpcId>{VPC}</vpcId><default>true</default>\
                 <entrySet>{}<item><ruleNumber>100</ruleNumber><protocol>-1</protocol><ruleAction>allow</ruleAction>\
                 <egress>false</egress><cidrBlock>0.0.0.0/0</cidrBlock></item><item><ruleNumber>32767</ruleNumber>\
                 <protocol>-1</protocol><ruleAction>deny</ruleAction><egress>false</egress>\
                 <cidrBlock>0.0.0.0/0</cidrBlock></item></entrySet><associationSet><item>\
                 <networkAclAssociationId>aclassoc-1</networkAclAssociationId><networkAclId>{ACL}</networkAclId>\
                 <subnetId>subnet-1</subnetId></item></associationSet></item></networkAclSet>",
                self.entry.as_deref().map(entry).unwrap_or_default()
            ),
            "AuthorizeSecurityGroupIngress" => {
                let set = format!(
                    "<return>true</return><securityGroupRuleSet>{}</securityGroupRuleSet>",
                    rule(&form)
                );
                self.rule = Some(form);
                set
            }
            "CreateNetworkAclEntry" => {
                self.entry = Some(form);
                "<return>true</return>".to_owned()
            }
            "CreateTags" => "<return>true</return>".to_owned(),
            _ => return None,
        };
        let body = format!(
            "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>{inner}\
             </{action}Response>"
        );
        Some((action, Answer::ok("text/xml", body)))
    }
}

fn value<'f>(form: &'f [(String, String)], name: &str) -> Option<&'f str> {
    form.iter()
        .find(|(member, _)| member == name)
        .map(|(_, value)| value.as_str())
}

/// The rule of an authorization, with the tags it asks for.
fn rule(form: &[(String, String)]) -> String {
    let of = |name: &str| value(form, name).unwrap_or_default();
    let tags: String = (1..)
        .map_while(|n| {
            let key = value(form, &format!("TagSpecification.1.Tag.{n}.Key"))?;
            let value = value(form, &format!("TagSpecification.1.Tag.{n}.Value"))?;
            Some(format!("<item><key>{key}</key><value>{value}</value></item>"))
        })
        .collect();
    format!(
        "<item><securityGroupRuleId>sgr-0123456789abcdef0</securityGroupRuleId><groupId>{GROUP}</groupId>\
         <isEgress>false</isEgress><ipProtocol>{}</ipProtocol><fromPort>{}</fromPort><toPort>{}</toPort>\
         <cidrIpv4>{}</cidrIpv4><description>{}</description><tagSet>{tags}</tagSet></item>",
        of("IpPermissions.1.IpProtocol"),
        of("IpPermissions.1.FromPort"),
        of("IpPermissions.1.ToPort"),
        of("IpPermissions.1.IpRanges.1.CidrIp"),
        of("IpPermissions.1.IpRanges.1.Description"),
    )
}

fn entry(form: &[(String, String)]) -> String {
    let of = |name: &str| value(form, name).unwrap_or_default();
    format!(
        "<item><ruleNumber>{}</ruleNumber><protocol>{}</protocol><ruleAction>{}</ruleAction><egress>{}</egress>\
         <cidrBlock>{}</cidrBlock><portRange><from>{}</from><to>{}</to></portRange></item>",
        of("RuleNumber"),
        of("Protocol"),
        of("RuleAction"),
        of("Egress"),
        of("CidrBlock"),
        of("PortRange.From"),
        of("PortRange.To"),
    )
}

/// The value of a form's member.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                let digits = str::from_utf8(&digits).unwrap_or("20");
                u8::from_str_radix(digits, 16).unwrap_or(b' ')
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
