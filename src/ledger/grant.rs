//! Grants: what a gateway may do, by operation and amount.
//!
//! A grant stands in the gateway's record. What it does not allow is refused as an outcome, and recorded.

use super::fields::{get, narrow, set, wide};
use super::{Code, Operation, Transfer};
use crate::money::AMOUNT_MAX;

/// What a gateway may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// One bit for the number of each operation, and [`Self::OPEN_ACCOUNTS`].
    pub operations: u32,
    /// The most that one transfer may move, minor units.
    pub amount_max: u128,
}

/// What is said of a gateway's grant; what is not said stays as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrantChange {
    /// See [`Grant::operations`].
    pub operations: Option<u32>,
    /// See [`Grant::amount_max`].
    pub amount_max: Option<u128>,
}

impl GrantChange {
    /// The grant after it.
    pub fn of(self, before: Grant) -> Grant {
        Grant {
            operations: self.operations.unwrap_or(before.operations),
            amount_max: self.amount_max.unwrap_or(before.amount_max),
        }
    }
}

impl Default for Grant {
    fn default() -> Self {
        Self::ALL
    }
}

impl Grant {
    /// Everything that a payment gateway does. The work of clearing is for people, and is only permitted by name.
    pub const ALL: Self = Self { operations: u32::MAX, amount_max: AMOUNT_MAX };
    /// Everything, and the work of clearing.
    pub const ALL_AND_CLEARING: Self = Self { operations: Self::ALL_CLEARING_BITS, amount_max: AMOUNT_MAX };
    /// All bits but one that means nothing: all bits are what gateways have that were permitted everything else.
    const ALL_CLEARING_BITS: u32 = u32::MAX >> 1;
    /// Whether accounts may be opened.
    pub const OPEN_ACCOUNTS: u32 = 1 << 16;
    /// Whether windows may be closed, payouts confirmed and breaks resolved.
    pub const CLEARING: u32 = 1 << 17;
    /// What the permission to do the work of clearing is called.
    pub const CLEARING_NAME: &'static str = "clearing";
    /// What the permission to open accounts is called.
    pub const OPEN_ACCOUNTS_NAME: &'static str = "open-accounts";

    /// The bit of an operation.
    pub const fn bit(operation: Operation) -> u32 {
        1 << operation as u16
    }

    /// Whether a transfer is allowed.
    #[inline]
    pub fn check(&self, transfer: &Transfer) -> Result<(), Code> {
        if self.operations & Self::bit(transfer.operation()) == 0 {
            Err(Code::OperationNotPermitted)
        } else if transfer.amount > self.amount_max && transfer.operation() != Operation::Require {
            Err(Code::AmountNotPermitted)
        } else {
            Ok(())
        }
    }

    /// Whether accounts may be opened.
    pub const fn may_open(&self) -> bool {
        self.operations & Self::OPEN_ACCOUNTS != 0
    }

    /// Whether the work of clearing may be done.
    pub const fn may_clear(&self) -> bool {
        self.operations & Self::CLEARING != 0 && self.operations != u32::MAX
    }

    /// Reads permissions as people write them: names of operations, `open-accounts` and `clearing`, or `all`.
    pub fn parse_operations(text: &str) -> Result<u32, String> {
        let mut bits = 0;
        let mut clearing = false;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let operation =
                Operation::ALL.iter().find(|operation| operation.name() == name && !operation.is_internal());
            bits |= match (name, operation) {
                ("all", _) => u32::MAX,
                (Self::OPEN_ACCOUNTS_NAME, _) => Self::OPEN_ACCOUNTS,
                (Self::CLEARING_NAME, _) => Self::CLEARING,
                (_, Some(&operation)) => Self::bit(operation),
                _ => return Err(name.to_owned()),
            };
            clearing |= name == Self::CLEARING_NAME;
        }
        if bits == u32::MAX {
            return Ok(if clearing { Self::ALL_CLEARING_BITS } else { bits });
        }
        Ok(bits)
    }

    /// The names of what is permitted.
    pub fn names(&self) -> Vec<&'static str> {
        match self.operations {
            u32::MAX => return vec!["all"],
            Self::ALL_CLEARING_BITS => return vec!["all", Self::CLEARING_NAME],
            _ => {}
        }
        let operations = Operation::ALL.iter().filter(|operation| !operation.is_internal());
        let permitted = operations.filter(|&&operation| self.operations & Self::bit(operation) != 0);
        let named = permitted.map(|operation| operation.name());
        let others =
            [self.may_open().then_some(Self::OPEN_ACCOUNTS_NAME), self.may_clear().then_some(Self::CLEARING_NAME)];
        named.chain(others.into_iter().flatten()).collect()
    }

    /// The grant in 16 bytes.
    pub fn encode(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        set::<0, 4>(&mut bytes, self.operations.to_le_bytes());
        set::<4, 12>(&mut bytes, narrow(self.amount_max.min(AMOUNT_MAX)));
        bytes
    }

    /// Reads a grant.
    pub fn decode(bytes: &[u8; 16]) -> Self {
        Self { operations: u32::from_le_bytes(get::<0, 4>(bytes)), amount_max: wide(get::<4, 12>(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_allows_its_operations_up_to_its_amount() {
        let operations = Grant::parse_operations("transfer, hold,open-accounts").unwrap();
        let grant = Grant { operations, amount_max: 100 };
        assert_eq!(grant.names(), ["transfer", "hold", "open-accounts"]);
        assert_eq!(Grant::decode(&grant.encode()), grant);
        assert_eq!(Grant::decode(&Grant::ALL.encode()), Grant::ALL);
        let transfer =
            |operation: Operation, amount| Transfer { flags: operation as u16, amount, ..Transfer::default() };
        assert_eq!(grant.check(&transfer(Operation::Hold, 100)), Ok(()));
        assert_eq!(grant.check(&transfer(Operation::Hold, 101)), Err(Code::AmountNotPermitted));
        assert_eq!(grant.check(&transfer(Operation::Refund, 1)), Err(Code::OperationNotPermitted));
        assert_eq!(Grant::parse_operations("fee"), Err("fee".to_owned()), "the ledger's own");
        for (text, may_clear) in
            [("all", false), ("clearing", true), ("all,clearing", true), ("clearing, all", true), ("hold", false)]
        {
            let operations = Grant::parse_operations(text).unwrap();
            let grant = Grant::decode(&Grant { operations, amount_max: 1 }.encode());
            assert_eq!(grant.may_clear(), may_clear, "{text}");
            assert_eq!(Grant::parse_operations(&grant.names().join(",")), Ok(operations));
        }
        assert!(Grant::ALL_AND_CLEARING.may_clear() && Grant::ALL_AND_CLEARING.may_open() && !Grant::ALL.may_clear());
    }
}
