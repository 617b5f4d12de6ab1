-- The peer's ledger: the same promises as far as a schema can give them. Every batch is one transaction: idempotent by id, with a balance check
-- for accounts that must not go below zero, decided in the order of the batch, durable when it is answered.
create table accounts (
    id bigint primary key,
    debits bigint not null default 0,
    credits bigint not null default 0,
    never_negative boolean not null default false
) with (fillfactor = 50);

create table transfers (
    id uuid primary key,
    debit bigint not null,
    credit bigint not null,
    amount bigint not null check (amount > 0),
    outcome smallint not null,
    at timestamptz not null default clock_timestamp()
);

-- Posts what is new of a batch, whoever has enough or not; how many were new.
create function post_all(ids uuid[], froms bigint[], tos bigint[], amounts bigint[]) returns bigint language sql as $$
    with fresh as (
        insert into transfers (id, debit, credit, amount, outcome)
        select i, d, c, a, 0 from unnest(ids, froms, tos, amounts) as batch (i, d, c, a)
        on conflict (id) do nothing
        returning debit, credit, amount
    ), moved as (
        select account, sum(out) as out, sum(into_) as into_ from (
            select debit as account, amount as out, 0 as into_ from fresh
            union all
            select credit, 0, amount from fresh
        ) as legs group by account
    ), posted as (
        update accounts set debits = debits + moved.out, credits = credits + moved.into_ from moved where id = moved.account
    )
    select count(*) from fresh
$$;

-- Outcomes by place in the batch: 0 accepted, 1 insufficient funds, 2 the id was used for something else.
create function post_batch(ids uuid[], froms bigint[], tos bigint[], amounts bigint[]) returns smallint[] language plpgsql as $$
declare
    one record;
    fresh bigint;
begin
    -- In one order, so that batches wait for each other and never in a circle.
    perform 1 from accounts where id = any (froms || tos) order by id for update;
    begin
        -- All at once, as long as nobody has to be refused.
        fresh := post_all(ids, froms, tos, amounts);
        if exists (select 1 from accounts where id = any (froms) and never_negative and debits > credits) then
            raise exception using errcode = 'check_violation';
        end if;
    exception when check_violation then
        -- One after the other: somebody has not enough.
        fresh := 0;
        for one in select i, d, c, a from unnest(ids, froms, tos, amounts) with ordinality as batch (i, d, c, a, n) order by n loop
            continue when exists (select 1 from transfers where id = one.i);
            if exists (select 1 from accounts where id = one.d and never_negative and debits + one.a > credits) then
                insert into transfers (id, debit, credit, amount, outcome) values (one.i, one.d, one.c, one.a, 1);
            else
                insert into transfers (id, debit, credit, amount, outcome) values (one.i, one.d, one.c, one.a, 0);
                update accounts set debits = debits + one.a where id = one.d;
                update accounts set credits = credits + one.a where id = one.c;
            end if;
        end loop;
    end;
    if fresh = cardinality(ids) then
        return array_fill(0::smallint, array[cardinality(ids)]);
    end if;
    return array(
        select case when (known.debit, known.credit, known.amount) = (d, c, a) then known.outcome else 2::smallint end
        from unnest(ids, froms, tos, amounts) with ordinality as batch (i, d, c, a, n)
        join transfers as known on known.id = i order by n
    );
end
$$;

-- The same for a batch of one, which needs none of the arrays.
create function post_one(i uuid, d bigint, c bigint, a bigint) returns smallint language plpgsql as $$
declare
    refused boolean;
    first record;
begin
    perform 1 from accounts where id in (d, c) order by id for update;
    select never_negative and debits + a > credits into refused from accounts where id = d;
    insert into transfers (id, debit, credit, amount, outcome) values (i, d, c, a, refused::int) on conflict (id) do nothing;
    if not found then
        select * into first from transfers where id = i;
        return case when (first.debit, first.credit, first.amount) = (d, c, a) then first.outcome else 2 end;
    end if;
    if not refused then
        update accounts
        set debits = debits + case when id = d then a else 0 end, credits = credits + case when id = c then a else 0 end
        where id in (d, c);
    end if;
    return refused::int;
end
$$;
