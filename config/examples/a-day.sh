#!/bin/sh
# A day in the life: from payments to a reconciled bank statement, on a server and a directory of its own. Needs `heng` in PATH, or its
# path in HENG; writes nothing but below a temporary directory.
set -eu
heng=${HENG:-heng}
examples=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
export HENG_SERVER=${HENG_SERVER:-127.0.0.1:7410} HENG_OPERATIONS=${HENG_OPERATIONS:-127.0.0.1:7411}
say() { printf '\n== %s\n' "$*"; }

"$heng" serve --listen $HENG_SERVER --operations-listen $HENG_OPERATIONS --development-key true \
    --data-dir "$work/data" --policy-file "$examples/day.toml" 2>"$work/server.log" >"$work/ready" &
server=$!
trap 'kill $server 2>/dev/null || true; wait $server 2>/dev/null || true; rm -rf "$work"' EXIT
until [ -s "$work/ready" ]; do kill -0 $server || { cat "$work/server.log"; exit 1; }; sleep 0.1; done

say "Two persons who may do the work of clearing; each has a key of its own"
anna=$("$heng" gateway add anna --allow clearing --data-dir "$work/data" | tail -1)
ben=$("$heng" gateway add ben --allow clearing --data-dir "$work/data" | tail -1)
as_anna() { "$heng" "$@" --gateway anna --key "$anna"; }
as_ben() { "$heng" "$@" --gateway ben --key "$ben"; }

say "Accounts: customers, the mirror of our bank account, fees, differences; and two shops, participants in clearing"
for id in 1 2 3 4; do "$heng" account open --currency EUR --id $id >"$work/out"; done
for shop in 10 11; do
    "$heng" account open --currency EUR --id $shop --never-negative >"$work/out"
    as_anna clearing add-participant $shop --account $shop --name "Shop $shop" --iban "GB82 WEST 1234 5698 7654 32"
done

say "Payments, a refund, a transfer between the shops"
"$heng" transfer --from 1 --to 10 --amount "2000.00 EUR" --code 7 --id 101 >"$work/out"
"$heng" transfer --from 1 --to 11 --amount "80.00 EUR" --code 7 --id 102 >"$work/out"
"$heng" refund 101 --amount "500.00 EUR" --id 103 --code 7 >"$work/out"
"$heng" transfer --from 10 --to 11 --amount "20.00 EUR" --code 7 --id 104 >"$work/out"

say "The window is closed, settled and paid out"
as_anna clearing close cards
until "$heng" clearing windows | grep -q settled; do sleep 0.1; done
"$heng" clearing windows
"$heng" clearing positions cards 1
cat "$work"/data/payouts/*.csv

say "What the bank sends: the payouts, and 0.50 EUR more than we know of"
{
    echo "booked,amount,reference"
    awk -F, 'NR > 1 { print $3 ",-" $9 "," $1 }' "$work"/data/payouts/cards-*[0-9].csv | tr -d '\r'
    echo "$(date -u +%F),0.50,interest"
} >"$work/statement.csv"
cat "$work/statement.csv"
as_anna statement import "$work/statement.csv" --account custody --mapping bank
"$heng" breaks list --account custody

say "The large payout needs a second person, and so does writing off the difference"
sleep 0.5
"$heng" clearing payouts
large=$("$heng" clearing payouts --state proposed | awk 'NR == 2 { print $1 }')
as_ben clearing confirm "$large"
as_anna breaks resolve L1.3 --account custody --how write-off --text "interest" >"$work/out"
as_ben breaks resolve L1.3 --account custody --how write-off
until "$heng" clearing windows | grep -q reconciled; do sleep 0.1; done

say "The day is reconciled; what it came to, and that every invariant holds"
"$heng" clearing windows
"$heng" report day "$(date -u +%F)"
"$heng" report pack "$(date -u +%F)" --directory "$work/reports"
ls "$work/reports"
"$heng" check
kill -TERM $server && wait $server || true
"$heng" verify --data-dir "$work/data"
