//! The report as CSV: RFC 4180 with a header, `section,subject,item,count,minor_units,currency`. Texts that a spreadsheet would take for a
//! formula are guarded by an apostrophe; numbers are not.

use super::{DayReport, ParticipantDay};
use crate::backoffice::payout_file::guarded;

impl DayReport {
    /// The report as CSV.
    pub fn csv(&self) -> Vec<u8> {
        let mut out = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
        let mut row = |fields: [&str; 6]| {
            // A vector takes everything.
            let _written = out.write_record(fields.map(guarded));
        };
        row(["section", "subject", "item", "count", "minor_units", "currency"]);
        let complete = if self.is_complete { "complete" } else { "incomplete" };
        let records = match self.first_sequence {
            0 => 0,
            first => self.last_sequence.saturating_sub(first).saturating_add(1),
        };
        row(["day", &self.day, complete, &records.to_string(), "", ""]);
        row(["transfers", "", "asked", &self.transfers.to_string(), "", ""]);
        row(["transfers", "", "accepted", &self.accepted.to_string(), "", ""]);
        row(["transfers", "", "success", &self.success_percent, "", ""]);
        for (code, count) in &self.refused {
            row(["refused", code, "", &count.to_string(), "", ""]);
        }
        for volume in &self.volumes {
            let (code, count) = (volume.code.to_string(), volume.count.to_string());
            row(["volume", &volume.operation, &code, &count, &volume.sum, &volume.currency]);
        }
        for window in &self.windows {
            let name = format!("{} {}", window.scheme, window.window);
            row(["window", &name, &window.state, &window.transfers.to_string(), &window.sum, ""]);
        }
        for (window, positions) in &self.positions {
            for position in positions {
                let count = position.debit_count.saturating_add(position.credit_count).to_string();
                row(["position", window, &position.participant.to_string(), &count, &position.net, ""]);
            }
        }
        for payout in &self.payouts {
            row(["payout", &payout.payout, &payout.state, "1", &payout.amount, &payout.currency]);
        }
        for balance in &self.balances {
            row(["balance", &balance.subject, &balance.account, "", &balance.balance, &balance.currency]);
        }
        for class in &self.classes {
            row(["class", &class.subject, "", "", &class.balance, &class.currency]);
        }
        row(["open", "", "pendings", &self.open_pendings.to_string(), "", ""]);
        row(["bank", "", "statements", &self.statements.to_string(), "", ""]);
        for (action, count) in &self.break_actions {
            row(["bank", "breaks", action, &count.to_string(), "", ""]);
        }
        self.state_rows(&mut row);
        out.into_inner().unwrap_or_default()
    }

    /// How things stood, and what was found.
    fn state_rows(&self, row: &mut impl FnMut([&str; 6])) {
        for account in &self.breaks {
            for known in &account.open {
                let item = format!("{} {} {} days", known.kind, known.key, known.age_days);
                row(["break", &account.account, &item, "1", &known.amount, ""]);
            }
            row(["tolerated", &account.account, "", &account.tolerated_count.to_string(), "", ""]);
            row(["tolerated", &account.account, "bank has more", "", &account.tolerated_more, ""]);
            row(["tolerated", &account.account, "bank has less", "", &account.tolerated_less, ""]);
        }
        for run in &self.distributions {
            row(["distribution", &run.distribution.to_string(), &run.state, "1", &run.amount, ""]);
        }
        for covered in &self.coverage {
            row(["coverage", "client-funds", "", "", &covered.client_funds, &covered.currency]);
            row(["coverage", "external", "", "", &covered.external, &covered.currency]);
            row(["coverage", "surplus", "", "", &covered.surplus, &covered.currency]);
        }
        for finding in &self.suspicious {
            let whom = format!("{} to {}", finding.payer, finding.payee);
            row([
                "suspicious",
                &finding.rule,
                whom.trim(),
                &finding.count.to_string(),
                &finding.sum,
                &finding.currency,
            ]);
        }
        for participant in &self.participants {
            participant.rows(row);
        }
    }
}

impl ParticipantDay {
    fn rows(&self, row: &mut impl FnMut([&str; 6])) {
        let whom = self.participant.to_string();
        row(["participant", &whom, &self.name, "", "", ""]);
        row(["asked", &whom, "", &self.asked.to_string(), "", ""]);
        row(["accepted", &whom, "", &self.accepted.to_string(), "", ""]);
        row(["success", &whom, "", &self.success_percent, "", ""]);
        for (code, count) in &self.refused {
            row(["refused of", &whom, code, &count.to_string(), "", ""]);
        }
        for account in &self.accounts {
            for (section, amount) in [
                ("opening", &account.opening),
                ("closing", &account.closing),
                ("held", &account.held),
                ("reserve", &account.reserve),
            ] {
                row([section, &whom, &account.account, "", amount, &account.currency]);
            }
        }
        for (section, volumes) in [("paid", &self.paid), ("received", &self.received)] {
            for volume in volumes {
                let item = format!("{} {}", volume.operation, volume.code);
                row([section, &whom, &item, &volume.count.to_string(), &volume.sum, &volume.currency]);
            }
        }
        for position in &self.positions {
            row(["position of", &whom, &position.window, "", &position.position.net, ""]);
        }
        for payout in &self.payouts {
            row(["payout of", &whom, &payout.payout, "1", &payout.amount, &payout.currency]);
        }
    }
}
