/*
 * The life of payments, transactions and attempts; docs/explanation/testing.md explains it.
 *
 * A payment is what is owed.  A transaction is what a nonce of a key does: it has one or
 * more payments, for life.  An attempt is signed bytes; those of one transaction compete.
 *
 * Every `atomic` is one commit to the database, one act of the chain, or one message to
 * the nodes.  Between two of them, any other process may run and this one may die.
 * tests/model/spin.py runs it and sets the bounds, as environment variables of `pan` or
 * as macros of the simulator.
 */

#define PAYMENTS 3
#define ROWS 3           /* Of transactions. */
#define KEYS 3
#define NONCES 5
#define NONE 15
#define FOREIGN 14       /* A mined transaction of another program with our key. */
#define FILLER 13        /* A mined transaction without payments, after a restore. */

/*
 * The first three and the last four are of payments, the others of transactions.  A
 * payment that is assigned shows the status of its transaction (signer/model/refund.py).
 */
#define ABSENT 0
#define AWAITING_APPROVAL 1
#define QUEUED 2
#define RESERVED 3
#define SIGNED 4
#define BROADCAST 5
#define MINED 6
#define CONFIRMED 7
#define REFUSED 8
#define CANCELLED 9
#define FAILED 10
#define ASSIGNED 11      /* To a transaction.  Of payments only. */

/* What was decided about a payment: rejected is also that its time is over. */
#define UNDECIDED 0
#define APPROVED 1
#define REJECTED 2

/* A mined transaction that had no effect at all. */
#define REVERTED 64

/* How a lost database is restored. */
#define WITHOUT_LOG 0    /* As documented before the log was used. */
#define WITH_LOG 1       /* The log has each transaction before the device is asked. */
#define HIGH_WATER 2     /* Paused until an operator states the highest signed nonce. */
#define WITH_LATE_LOG 3  /* The log has it after the commit, unless that dies. */
#define LOW_WATER 4      /* The operator states a nonce that is too low. */

/* Planted bugs; 0 is none. */
#define NO_COMPARISON 1
#define NEW_NONCE 2
#define EARLY_BROADCAST 3
#define ONE_CONFIRMATION 4
#define LAST_HASH 5
#define UNCHECKED_FORMER 6
#define UNCHECKED_SWEEP 7
#define ONE_NODE 8
#define SIGN_AFTER_CANCEL 9
#define SIGN_AFTER_REVOKE 10
#define FORGOTTEN_ROTATION 11
#define PAY_UNAPPROVED 12
#define NO_FILLERS 13
#define EARLY_RETRY 14
#define CHANGED_COMPOSITION 15
#define ONE_RECEIPT 16
#define ENDED_WHILE_HELD 17
#define UNCHECKED_ITEM 18
#define FAILED_BY_THE_CAP 19
#define FAILED_TOGETHER 20
#define REFUSED_AGAIN 21
#define FIRST_SIGHTING 22
#define ONE_MARK 23
#define OLDEST_IN_LOG 24
#define ONE_RELEASED 25
#define COUNTED_OUTSIDE 26
#define FREED_AT_BROADCAST 27
#define NEVER_FREED 28

/* The bounds of a configuration, used up as they happen. */
byte payments, workers, crashes, losses, reorgs, drops, replacements, reverts;
byte cancels, rotations, revocations, reinstatements, foreigners, restores;
byte partials;           /* The token refuses a payment of a mined transaction. */
byte caps;               /* The day's cap of the vault skips one. */
byte batch;              /* Transactions are of kind batch: of one or more payments. */
byte window;             /* Transactions of a wallet without a receipt; 0: any number. */
byte mode, sweep, liar, fair;
byte larges, lowered;
byte bug;
byte removed;            /* Transactions that reorganisations have removed from blocks. */

/* The database: payments. */
byte ps[PAYMENTS];       /* Status. */
byte pt[PAYMENTS];       /* Its only live transaction. */
bit asked[PAYMENTS];     /* A request to cancel it is stored. */
bit large[PAYMENTS];     /* It needs an approval. */
byte decision[PAYMENTS];
byte paid[PAYMENTS];     /* 1 + KEYS * nonce + key of a recorded earlier payment; or 0. */

/* The database: transactions. */
byte ts[ROWS];           /* Status. */
byte tn[ROWS];           /* Nonce. */
byte tk[ROWS];           /* Key, thus sender. */
byte tc[ROWS];           /* Its payments, as a bit set, for life. */
byte att[ROWS];          /* Number of recorded attempts. */
byte last[ROWS];         /* The latest of them. */
byte sighted[ROWS];      /* The outcome when it was seen first; of FIRST_SIGHTING only. */

/* The database: keys and wallets. */
byte nxt[KEYS];          /* The wallet's next nonce. */
bit paused[KEYS];
byte seen[KEYS * NONCES];/* Recorded transactions that the database had not made. */
short recorded;          /* Bit set of attempts. */
byte serving;
bit revoked[KEYS];
byte target;             /* The key that the sweep pays, if `sweep`. */
bit hold;                /* After a restore: nothing new is paid yet. */
byte high[KEYS];         /* After a restore: nonces below are consumed first. */

/* A backup of it. */
bit copied;
byte b_ps[PAYMENTS], b_pt[PAYMENTS], b_decision[PAYMENTS];
byte b_ts[ROWS], b_tn[ROWS], b_tk[ROWS], b_tc[ROWS], b_att[ROWS], b_last[ROWS];
byte b_nxt[KEYS], b_serving;
short b_recorded;

/* The log: nonce, key and payments of each transaction that was to be signed. */
byte log_n[ROWS], log_k[ROWS], log_c[ROWS];
bit log_cancelled[PAYMENTS];

/*
 * Bytes x * 4 + g * 2 + a are attempt a of row x.  g is 1 for those that were made after
 * the database had lost earlier ones.  All of one (x, g) share nonce and payments.
 */
byte wn[ROWS * 2], wk[ROWS * 2], wc[ROWS * 2];
bit gen[ROWS];
short noops;

/* The chain.  A nonce below `final` is deep enough. */
short pool;
short fillers;           /* Bit set of AT(key, nonce). */
byte mined[KEYS * NONCES];
/* The payments that it made; times 8, those that the cap skipped; or REVERTED. */
byte outcome[KEYS * NONCES];
byte count[KEYS], final[KEYS];

/*
 * What the workers hold: payment p, or transaction x as PAYMENTS + x.  `old` after
 * another commit, `dead` after a restore.
 */
byte held[2];
bit old[2], dead[2];

#define BIT(t) (1 << (t))
#define SET(t) ((t) >> 1)
#define IS_NOOP(t) ((noops >> (t)) & 1)
#define AT(k, n) ((k) * NONCES + (n))
#define IS_NEW(p) (ps[p] == QUEUED || ps[p] == AWAITING_APPROVAL)
#define IS_OPEN(x) (ts[x] >= RESERVED && ts[x] <= MINED)
#define IS_DUE(c) ((c) < PAYMENTS && IS_NEW(c) || (c) >= PAYMENTS && IS_OPEN((c) - PAYMENTS))
#define UNENDED(p) (IS_NEW(p) || ps[p] == ASSIGNED)
#define ENDED(p) (p >= payments || ps[p] != ABSENT && !UNENDED(p))
#define IS_SWEEP(p) (sweep && p == 0)
#define UNAPPROVED(p) (large[p] && decision[p] != APPROVED && bug != PAY_UNAPPROVED)
#define REJECTS(p) (UNAPPROVED(p) && decision[p] == REJECTED)
#define UNDERSIGNED(p) (!large[p] || decision[p] == APPROVED)
#define OUTDATED(p) (IS_SWEEP(p) && target != serving)
#define IS_PAID(p) (paid[p] != 0)
#define HAS(x, p) ((tc[x] >> (p)) & 1)
#define ANY(x, holds) \
    (HAS(x, 0) && holds(0) || HAS(x, 1) && holds(1) || HAS(x, 2) && holds(2))
#define ALL(x, holds) \
    ((!HAS(x, 0) || holds(0)) && (!HAS(x, 1) || holds(1)) && (!HAS(x, 2) || holds(2)))
#define T_UNAPPROVED(x) ANY(x, UNAPPROVED)
#define T_REJECTS(x) ANY(x, REJECTS)
#define T_OUTDATED(x) ANY(x, OUTDATED)
#define PAID_BY(p, k, n) (paid[p] && paid[p] != 1 + KEYS * (n) + (k))
#define PAID_ELSEWHERE(x, k, n) (HAS(x, 0) && PAID_BY(0, k, n) || \
    HAS(x, 1) && PAID_BY(1, k, n) || HAS(x, 2) && PAID_BY(2, k, n))
#define OWNS(x, p) (!HAS(x, p) || ps[p] == ASSIGNED && pt[p] == x)
#define HAS_FREE_ROW (ts[0] == ABSENT || ts[1] == ABSENT || ts[2] == ABSENT)
#define IN_POOL(i, k, n) (((pool >> (2 * i)) & 3) && wn[i] == (n) && wk[i] == (k))
#define PENDING(k, n) (IN_POOL(0, k, n) || IN_POOL(1, k, n) || IN_POOL(2, k, n) || \
    IN_POOL(3, k, n) || IN_POOL(4, k, n) || IN_POOL(5, k, n) || \
    ((fillers >> AT(k, n)) & 1))
#define IS_ROW(i, k, n) (tn[i] == (n) && tk[i] == (k))
#define HAS_ROW(k, n) (IS_ROW(0, k, n) || IS_ROW(1, k, n) || IS_ROW(2, k, n))
#define KNOWN(k, n) (HAS_ROW(k, n) || seen[AT(k, n)] != NONE)
/* The chain has made payment p with this nonce. */
#define PAYS(k, n, p) ((outcome[AT(k, n)] >> (p)) & 1)
#define MADE(k, n) (outcome[AT(k, n)] & 7)
#define WAS_CAPPED(k, n, p) ((outcome[AT(k, n)] >> (3 + (p))) & 1)
/* The token has refused payment p of this mined transaction. */
#define TOKEN_REFUSED(k, n, p) (mined[AT(k, n)] < FILLER && \
    !IS_NOOP(mined[AT(k, n)]) && !(outcome[AT(k, n)] & REVERTED) && \
    !PAYS(k, n, p) && !WAS_CAPPED(k, n, p))
/* A place in the window is free when there is a receipt, or can never be one. */
#define IS_IN_FLIGHT(x, k) (tk[x] == (k) && (ts[x] == RESERVED || ts[x] == SIGNED || \
    ts[x] == BROADCAST && bug != FREED_AT_BROADCAST || \
    (ts[x] == FAILED || ts[x] == CONFIRMED) && bug == NEVER_FREED))
#define IN_FLIGHT(k) (IS_IN_FLIGHT(0, k) + IS_IN_FLIGHT(1, k) + IS_IN_FLIGHT(2, k))
#define ON_NODES(k, n) (n >= count[k] && PENDING(k, n) && !((fillers >> AT(k, n)) & 1))
/* The mined bytes are of transaction x, perhaps lost by the database since. */
#define IS_OF(m, x) (m < FILLER && wc[SET(m)] == tc[x])

/* The audit records of a run, in which each transaction has one payment. */
#ifdef SIMULATED
#define FIRST(x) (HAS(x, 0) -> 0 : (HAS(x, 1) -> 1 : 2))
#define SIGNING(name) printf("EVENT "); printf(name); printf( \
    " refund=%d key=%d nonce=%d attempt=%d noop=%d worker=%d\n", \
    whose, k, n, number, kind, w)
#define OF_PAYMENT(name, p) printf("EVENT "); printf(name); printf( \
    " refund=%d key=%d worker=%d\n", p, k, w)
#define OF_KEY(name, k) printf("EVENT "); printf(name); printf(" key=%d\n", k)
#define ACCEPT(p) printf("EVENT accept refund=%d\n", p)
#define NUMBER number = att[x]; whose = FIRST(x)
#else
#define SIGNING(name)
#define OF_PAYMENT(name, p)
#define OF_KEY(name, k)
#define ACCEPT(p)
#define NUMBER
#endif

/*
 * Every change of a status: a compare-and-set, after which others hold an old row.  The
 * names are of the status that is shown for a payment.
 */
#define CHANGED(c) \
    if :: held[0] == c -> old[0] = 1 :: else fi; \
    if :: held[1] == c -> old[1] = 1 :: else fi
#define MOVE(p, before, after) assert(ps[p] == before); ps[p] = after; CHANGED(p)
#define ASSIGN(p, before, after) \
    assert(ps[p] == before && pt[p] == NONE); ps[p] = ASSIGNED; CHANGED(p)
#define RELEASE(p, before, after) \
    assert(ps[p] == ASSIGNED); ps[p] = after; pt[p] = NONE; CHANGED(p)
#define STEP(x, before, after) \
    assert(ts[x] == before); ts[x] = after; CHANGED(PAYMENTS + x)

#define LET_GO held[w] = NONE; old[w] = 0; p = 0; x = 0; seen_count = 0; want = 0; kind = 0; \
    free = 0
#define AGAIN LET_GO; goto again
/* At the start of each step: a restore kills all processes, and one may die anyway. */
#define ALIVE \
    if \
    :: dead[w] -> dead[w] = 0; AGAIN \
    :: !dead[w] -> skip \
    :: !dead[w] && crashes > 0 -> crashes--; AGAIN \
    fi
/* The nodes have no more of a wallet than the window, and what was mined once. */
#define REQUIRE_WINDOW assert(!window || \
    ON_NODES(k, 0) + ON_NODES(k, 1) + ON_NODES(k, 2) + ON_NODES(k, 3) + \
    ON_NODES(k, 4) <= window + removed)
#define UNCHANGED (!old[w] || bug == NO_COMPARISON)

/* The next nonce of key k on the chain, pools included: it ends at the first gap. */
inline pending_count(k, result) {
    result = count[k];
    do
    :: result < NONCES && PENDING(k, result) -> result++
    :: else -> break
    od
}

/*
 * Three nodes, of which one may lie and the honest ones may lag: a fact counts if two
 * report it.  An absent answer is never a fact.
 */
inline ask(truth, answer) {
    if
    :: !liar -> answer = truth
    :: else ->
        votes = 0;
        if
        :: (truth) -> votes = 2
        :: (truth) && losses > 0 -> losses--; votes = 1
        :: !(truth) -> votes = 0
        fi;
        if :: votes++ :: skip fi;
        answer = (votes >= 2 || (bug == ONE_NODE && votes >= 1))
    fi
}

/*
 * The checks of FormerWallets: the database knows what every other key of its ring has
 * sent.  Keys are activated in their order, so the ring has those up to `serving`.
 */
inline others_known(k, result) {
    result = 1;
    i = 0;
    do
    :: i < KEYS ->
        if
        :: i != k && i <= serving && bug != UNCHECKED_FORMER ->
            pending_count(i, j);
            if :: j > nxt[i] -> paused[i] = 1 :: else fi;
            if :: paused[i] -> result = 0 :: else fi
        :: else
        fi;
        i++
    :: else -> break
    od;
    i = 0; j = 0
}

inline record_seen(k, n, m) {
    seen[AT(k, n)] = m;
    if :: nxt[k] <= n -> nxt[k] = n + 1 :: else fi;
    i = 0;
    do
    :: i < PAYMENTS ->
        if
        :: PAYS(k, n, i) && paid[i] == 0 ->
            paid[i] = 1 + KEYS * n + k;
            if :: bug == ONE_MARK -> break :: else fi
        :: else
        fi;
        i++
    :: else -> break
    od;
    i = 0
}

/* A row of a new transaction, which has no payments yet. */
inline begin(x, k, n, status) {
    x = (ts[0] == ABSENT -> 0 : (ts[1] == ABSENT -> 1 : 2));
    assert(ts[x] == ABSENT);
    /* I2: one transaction for each nonce. */
    assert(!HAS_ROW(k, n));
    /* I4: no payment still believes that this row is its transaction. */
    assert(pt[0] != x && pt[1] != x && pt[2] != x);
    ts[x] = status; tk[x] = k; tn[x] = n; tc[x] = 0; att[x] = 0; last[x] = NONE
}

/* Payment p joins a transaction that has no bytes yet. */
inline reserve(p, x) {
    assert(att[x] == 0 && !revoked[tk[x]]);
    assert(!asked[p]);
    /* What needs an approval has one. */
    assert(!large[p] || decision[p] == APPROVED);
    /* I3: each earlier transaction of it has ended, finally, and did not pay it. */
    assert(pt[p] == NONE);
    assert(!HAS(0, p) || final[tk[0]] > tn[0] && !PAYS(tk[0], tn[0], p));
    assert(!HAS(1, p) || final[tk[1]] > tn[1] && !PAYS(tk[1], tn[1], p));
    assert(!HAS(2, p) || final[tk[2]] > tn[2] && !PAYS(tk[2], tn[2], p));
    tc[x] = tc[x] | BIT(p);
    ASSIGN(p, QUEUED, RESERVED);
    pt[p] = x;
    OF_PAYMENT("reserve", p)
}

/*
 * The nonce of x is final: each of its payments was made, or was not.  What the token
 * refused, or an approver, has failed.  What had no fault of its own is queued again.
 */
inline end_payments(x) {
    i = 0;
    do
    :: i < PAYMENTS && HAS(x, i) && ps[i] == ASSIGNED && pt[i] == x ->
        if
        :: bug != FIRST_SIGHTING && PAYS(tk[x], tn[x], i) ||
           bug == FIRST_SIGHTING && ((sighted[x] >> i) & 1) ||
           bug == ONE_RECEIPT && MADE(tk[x], tn[x]) ->
            /* I1: at depth, and it made this payment. */
            assert(final[tk[x]] > tn[x] && PAYS(tk[x], tn[x], i));
            RELEASE(i, MINED, CONFIRMED)
        :: else ->
            assert(final[tk[x]] > tn[x] && !PAYS(tk[x], tn[x], i));
            if
            :: batch && (!TOKEN_REFUSED(tk[x], tn[x], i) || bug == REFUSED_AGAIN) &&
               !REJECTS(i) && !(bug == ENDED_WHILE_HELD && hold) &&
               !(bug == FAILED_BY_THE_CAP && WAS_CAPPED(tk[x], tn[x], i)) &&
               !(bug == FAILED_TOGETHER && T_REJECTS(x)) ->
                /* I3: the token is asked once. */
                assert(!TOKEN_REFUSED(tk[x], tn[x], i));
                RELEASE(i, FAILED, QUEUED)
            :: else ->
                /* I3: a payment of a batch fails for a reason of its own. */
                assert(!batch || TOKEN_REFUSED(tk[x], tn[x], i) || REJECTS(i) ||
                    bug == ENDED_WHILE_HELD);
                RELEASE(i, MINED, FAILED)
            fi
        fi;
        i++
    :: i < PAYMENTS && !(HAS(x, i) && ps[i] == ASSIGNED && pt[i] == x) -> i++
    :: i >= PAYMENTS -> break
    od;
    i = 0
}

proctype worker(byte w) {
    byte p, x, k, n, m, seen_count, want, free, i, j;
    byte cursor = 0;
    bit kind, ok;
#ifdef SIMULATED
    byte number, whose;
#endif
    byte votes;
    bit late;
again:
    /* Claim: any payment or transaction, or each in turn where the claim must be fair. */
    atomic {
        (IS_NEW(0) || IS_NEW(1) || IS_NEW(2) || IS_OPEN(0) || IS_OPEN(1) || IS_OPEN(2));
        late = 0; k = 0; n = 0; m = 0; ok = 0; votes = 0; i = 0; j = 0;
        dead[w] = 0;
        if
        :: fair ->
            do
            :: IS_DUE(cursor) -> break
            :: else -> cursor = (cursor + 1) % (PAYMENTS + ROWS)
            od;
            i = cursor; cursor = (cursor + 1) % (PAYMENTS + ROWS)
        :: !fair && IS_NEW(0) -> i = 0
        :: !fair && IS_NEW(1) -> i = 1
        :: !fair && IS_NEW(2) -> i = 2
        :: !fair && IS_OPEN(0) -> i = PAYMENTS
        :: !fair && IS_OPEN(1) -> i = PAYMENTS + 1
        :: !fair && IS_OPEN(2) -> i = PAYMENTS + 2
        fi;
        held[w] = i; old[w] = 0;
        if
        :: i < PAYMENTS ->
            p = i; i = 0;
            if
            :: ps[p] == AWAITING_APPROVAL -> goto awaiting
            :: else -> goto queued
            fi
        :: else ->
            x = i - PAYMENTS; i = 0; k = tk[x]; n = tn[x]; NUMBER;
            if
            :: ts[x] == RESERVED -> goto reserved
            :: ts[x] == SIGNED -> goto send
            :: else -> goto follow
            fi
        fi
    }

awaiting:
    atomic {
        ALIVE;
        if
        :: asked[p] || decision[p] == REJECTED -> goto queued
        :: !asked[p] && decision[p] == APPROVED ->
            if :: UNCHANGED -> MOVE(p, AWAITING_APPROVAL, QUEUED) :: else fi;
            AGAIN
        :: !asked[p] && decision[p] == UNDECIDED -> AGAIN
        fi
    }

queued:
    /* Compare every wallet with the chain, then choose the key. */
    atomic {
        ALIVE;
        if
        :: ps[p] == QUEUED && !asked[p] && UNAPPROVED(p) ->
            /* The amount was lowered, or another program changed the status. */
            if :: UNCHANGED -> MOVE(p, QUEUED, AWAITING_APPROVAL) :: else fi;
            AGAIN
        :: else
        fi;
        k = serving;
        if :: IS_SWEEP(p) -> k = 0 :: else fi;
        others_known(k, ok);
        pending_count(k, seen_count);
        if
        :: bug == ONE_NODE && liar && seen_count < NONCES -> seen_count++
        :: true
        fi;
        if
        :: !paused[k] && seen_count > nxt[k] -> paused[k] = 1
        :: else
        fi;
        if
        :: !ok || paused[k] || hold || revoked[k] -> AGAIN
        :: else
        fi;
        want = RESERVED;
        free = (window > IN_FLIGHT(k) -> window - IN_FLIGHT(k) : 0);
        if
        :: paid[p] -> want = MINED
        :: !paid[p] && asked[p] -> want = CANCELLED
        :: !paid[p] && !asked[p] && ps[p] == AWAITING_APPROVAL -> want = REFUSED
        :: !paid[p] && OUTDATED(p) && bug != UNCHECKED_SWEEP -> want = REFUSED
        :: !paid[p] && !asked[p] && ps[p] != AWAITING_APPROVAL && reverts > 0 ->
            reverts--; want = REFUSED
        :: !paid[p] && !asked[p] && ps[p] != AWAITING_APPROVAL &&
           !(OUTDATED(p) && bug != UNCHECKED_SWEEP) -> skip
        fi
    }
    atomic {
        ALIVE;
        if
        :: !UNCHANGED -> AGAIN
        :: UNCHANGED && want == MINED ->
            k = (paid[p] - 1) % KEYS; n = (paid[p] - 1) / KEYS;
            m = seen[AT(k, n)];
            if
            :: HAS_ROW(k, n) ->
                /* Its transaction was found before the payment was accepted again. */
                x = (IS_ROW(0, k, n) -> 0 : (IS_ROW(1, k, n) -> 1 : 2));
                if
                :: HAS(x, p) && (ts[x] == MINED || batch && ts[x] == CONFIRMED) ->
                    if
                    :: ps[p] == QUEUED -> ASSIGN(p, QUEUED, MINED)
                    :: else -> ASSIGN(p, AWAITING_APPROVAL, MINED)
                    fi;
                    pt[p] = x;
                    if
                    :: ts[x] == CONFIRMED -> RELEASE(p, MINED, CONFIRMED)
                    :: else
                    fi
                :: else ->
                    /* I1: what was paid in a batch is not refused. */
                    assert(!batch);
                    if
                    :: ps[p] == QUEUED -> MOVE(p, QUEUED, REFUSED)
                    :: else -> MOVE(p, AWAITING_APPROVAL, REFUSED)
                    fi
                fi
            :: !HAS_ROW(k, n) && !HAS_FREE_ROW -> AGAIN
            :: else ->
                begin(x, k, n, MINED);
                tc[x] = wc[SET(m)];
                if
                :: ps[p] == QUEUED -> ASSIGN(p, QUEUED, MINED)
                :: else -> ASSIGN(p, AWAITING_APPROVAL, MINED)
                fi;
                pt[p] = x
            fi
        :: UNCHANGED && want == CANCELLED ->
            if
            :: ps[p] == QUEUED -> MOVE(p, QUEUED, CANCELLED)
            :: else -> MOVE(p, AWAITING_APPROVAL, CANCELLED)
            fi;
            log_cancelled[p] = 1; OF_PAYMENT("cancel", p)
        :: UNCHANGED && want == REFUSED && ps[p] == QUEUED -> MOVE(p, QUEUED, REFUSED)
        :: UNCHANGED && want == REFUSED && ps[p] == AWAITING_APPROVAL ->
            MOVE(p, AWAITING_APPROVAL, REFUSED)
        :: UNCHANGED && want == RESERVED ->
            /* One commit reserves all nonces, under the lock of the chain. */
            if
            :: paused[k] || hold || paid[p] || nxt[k] < seen_count || nxt[k] >= NONCES ||
               !HAS_FREE_ROW -> AGAIN
            :: else
            fi;
            if
            :: !IS_SWEEP(p) && k != serving && bug != NO_COMPARISON -> AGAIN
            :: OUTDATED(p) && bug != UNCHECKED_SWEEP -> AGAIN
            :: asked[p] && bug != SIGN_AFTER_CANCEL -> AGAIN
            :: UNAPPROVED(p) -> AGAIN
            :: else
            fi;
            if
            :: bug != COUNTED_OUTSIDE ->
                free = (window > IN_FLIGHT(k) -> window - IN_FLIGHT(k) : 0)
            :: else
            fi;
            /* It waits for a place, and may be cancelled. */
            if :: window && !free -> AGAIN :: else fi;
            assert(!KNOWN(k, nxt[k]));
            begin(x, k, nxt[k], RESERVED);
            nxt[k] = nxt[k] + 1; free = (free -> free - 1 : 0);
            reserve(p, x);
            i = 0;
            do
            :: i < PAYMENTS ->
                if
                :: i != p && ps[i] == QUEUED && !asked[i] && !paid[i] && !IS_SWEEP(p) &&
                   !UNAPPROVED(i) && !IS_SWEEP(i) && HAS_FREE_ROW && nxt[k] < NONCES &&
                   (!window || free) ->
                    assert(!KNOWN(k, nxt[k]));
                    begin(j, k, nxt[k], RESERVED);
                    nxt[k] = nxt[k] + 1; free = (free -> free - 1 : 0);
                    reserve(i, j); j = 0
                :: batch && i != p && ps[i] == QUEUED && !paid[i] && !IS_SWEEP(p) &&
                   (!asked[i] || bug == UNCHECKED_ITEM) && !UNAPPROVED(i) &&
                   !IS_SWEEP(i) -> reserve(i, x)
                :: true
                fi;
                i++
            :: else -> break
            od;
            i = 0;
            if
            :: IS_SWEEP(p) -> AGAIN   /* Its intent is checked when it is signed. */
            :: else ->
                held[w] = PAYMENTS + x; old[w] = 0; p = 0;
                want = 0; free = 0; seen_count = 0; n = tn[x]; NUMBER; goto sign
            fi
        fi;
        AGAIN
    }

reserved:
    /* Later than ten seconds after the reservation: look at the chain again. */
    atomic {
        ALIVE;
        late = 1;
        if :: count[k] > n -> goto taken :: else fi;
        others_known(k, ok);
        if :: !ok || revoked[k] -> AGAIN :: else fi;
        if :: T_UNAPPROVED(x) && !ANY(x, REJECTS) -> AGAIN :: else fi;
        if
        :: T_UNAPPROVED(x) || ANY(x, IS_PAID) || T_OUTDATED(x) && bug != UNCHECKED_SWEEP ->
            kind = 1
        :: !T_UNAPPROVED(x) && !ANY(x, IS_PAID) && reverts > 0 -> reverts--; kind = 1
        :: !T_UNAPPROVED(x) && !ANY(x, IS_PAID) &&
           !(T_OUTDATED(x) && bug != UNCHECKED_SWEEP) -> skip
        fi
    }

sign:
    /* The intent to sign; the reservation has recorded the first one. */
    atomic {
        ALIVE;
        if
        :: late && revoked[k] && bug != SIGN_AFTER_REVOKE -> AGAIN
        :: late && kind == 0 && T_OUTDATED(x) && bug != UNCHECKED_SWEEP -> AGAIN
        :: late && kind == 0 && att[x] == 0 && T_UNAPPROVED(x) -> AGAIN
        :: else
        fi;
        if :: late -> SIGNING("intend") :: else fi;
        /* O5: a revoked key begins no signature. */
        assert(!late || !revoked[k]);
        /* No transfer is signed without an approval, except a replacement. */
        assert(kind || !late || att[x] || ALL(x, UNDERSIGNED));
        /* O8: a sweep pays the active key only. */
        assert(kind || !late || !T_OUTDATED(x));
        if
        :: mode != WITH_LATE_LOG -> log_n[x] = n; log_k[x] = k; log_c[x] = tc[x]
        :: else
        fi;
        if
        :: bug == EARLY_BROADCAST && !old[w] ->
            m = x * 4 + gen[x] * 2 + att[x]; goto early
        :: else
        fi
    }
record:
    /* The device has signed: one commit records bytes, outcome and status. */
    atomic {
        ALIVE;
        if :: !UNCHANGED -> SIGNING("unused"); AGAIN :: else fi;
        if :: att[x] > 1 -> AGAIN :: else fi;
        /* I3: it is the live transaction of each of its payments. */
        assert(kind || OWNS(x, 0) && OWNS(x, 1) && OWNS(x, 2));
        m = x * 4 + gen[x] * 2 + att[x];
        wn[x * 2 + gen[x]] = tn[x]; wk[x * 2 + gen[x]] = tk[x]; wc[x * 2 + gen[x]] = tc[x];
        recorded = recorded | BIT(m);
        if :: kind -> noops = noops | BIT(m) :: else -> noops = noops & ~BIT(m) fi;
        last[x] = m;
        SIGNING("sign");
        att[x]++;
        if
        :: ts[x] == RESERVED -> STEP(x, RESERVED, SIGNED)
        :: else -> STEP(x, BROADCAST, SIGNED)
        fi;
        if
        :: mode == WITH_LATE_LOG -> old[w] = 0; goto log
        :: else -> AGAIN
        fi
    }
log:
    atomic {
        ALIVE;
        log_n[x] = n; log_k[x] = k; log_c[x] = tc[x];
        AGAIN
    }
early:
    atomic {
        ALIVE;
        /* Nothing is sent that is not recorded. */
        assert(recorded & BIT(m));
        AGAIN
    }

send:
    /* The nodes take it, or it is lost; or they took it and their answer is lost. */
    atomic {
        ALIVE;
        m = last[x];
        if
        :: T_OUTDATED(x) && !IS_NOOP(m) && bug != UNCHECKED_SWEEP -> skip
        :: else ->
            assert(recorded & BIT(m));
            if
            :: count[k] > n ->
                if
                :: bug == NEW_NONCE && !old[w] ->
                    i = 0;
                    do
                    :: i < PAYMENTS ->
                        if
                        :: HAS(x, i) -> ps[i] = QUEUED; pt[i] = NONE
                        :: else
                        fi;
                        i++
                    :: else -> break
                    od;
                    i = 0; ts[x] = FAILED; tc[x] = 0; old[0] = 1; old[1] = 1;
                    AGAIN
                :: else
                fi
            :: else ->
                if
                :: pool = pool | BIT(m); REQUIRE_WINDOW
                :: losses > 0 -> losses--; AGAIN
                :: losses > 0 -> losses--; pool = pool | BIT(m); REQUIRE_WINDOW; AGAIN
                fi
            fi
        fi
    }
    atomic {
        ALIVE;
        if
        :: UNCHANGED -> STEP(x, SIGNED, BROADCAST)
        :: else
        fi;
        AGAIN
    }

follow:
    /* Receipts and counts first, then the next step of what is not mined. */
    atomic {
        ALIVE;
        late = 1;
        m = mined[AT(k, n)];
        if
        :: ts[x] == MINED ->
            if
            :: m == NONE -> want = BROADCAST
            :: else ->
                ask(final[k] > n || bug == ONE_CONFIRMATION, ok);
                if
                :: ok && (MADE(k, n) & tc[x]) -> want = CONFIRMED
                :: ok && !(MADE(k, n) & tc[x]) -> want = FAILED
                :: !ok && bug == EARLY_RETRY && !old[w] && tc[x] != MADE(k, n) ->
                    i = (HAS(x, 0) && !PAYS(k, n, 0) -> 0 :
                        (HAS(x, 1) && !PAYS(k, n, 1) -> 1 : 2));
                    ps[i] = QUEUED; pt[i] = NONE; i = 0; AGAIN
                :: else -> AGAIN
                fi
            fi;
            goto commit
        :: ts[x] == BROADCAST ->
            ask(count[k] > n, ok);
            if
            :: ok && count[k] > n -> goto taken
            :: else
            fi
        :: else -> AGAIN
        fi;
        if
        :: att[x] == 0 && !T_UNAPPROVED(x) ->
            goto sign                   /* Adopted, and removed by a reorganisation. */
        :: att[x] == 0 && T_UNAPPROVED(x) -> AGAIN
        :: att[x] > 0 && (PAID_ELSEWHERE(x, k, n) ||
           T_OUTDATED(x) && bug != UNCHECKED_SWEEP) && !IS_NOOP(last[x]) && att[x] < 2 &&
           !revoked[k] ->
            kind = 1; goto sign
        :: att[x] == 1 && replacements > 0 && !revoked[k] ->
            replacements--; kind = IS_NOOP(last[x]);
            if
            :: bug == CHANGED_COMPOSITION && !old[w] && tc[x] == 3 ->
                gen[x] = 1; tc[x] = 1; ps[1] = QUEUED; pt[1] = NONE
            :: else
            fi;
            goto sign
        :: att[x] > 0 && !(T_OUTDATED(x) && !IS_NOOP(last[x])) ->
            assert(recorded & BIT(last[x]));
            pool = pool | BIT(last[x]); REQUIRE_WINDOW; AGAIN
        :: else -> AGAIN
        fi
    }

taken:
    /* The nonce is used on the chain: by us, by a lost attempt, or by another. */
    atomic {
        ALIVE;
        m = mined[AT(k, n)];
        want = 0;
        if
        :: m == NONE -> AGAIN
        :: IS_OF(m, x) && (recorded & BIT(m)) &&
           (bug != LAST_HASH || m == last[x]) -> want = MINED
        :: IS_OF(m, x) && (recorded & BIT(m)) && bug == LAST_HASH &&
           m != last[x] -> AGAIN
        :: IS_OF(m, x) && !(recorded & BIT(m)) && !IS_NOOP(m) -> want = MINED
        :: else ->
            ask(final[k] > n, ok);
            if
            :: ok -> want = FAILED
            :: else -> AGAIN
            fi
        fi
    }
commit:
    atomic {
        ALIVE;
        if
        :: !UNCHANGED -> AGAIN
        :: UNCHANGED && want == MINED ->
            if
            :: bug == FIRST_SIGHTING -> sighted[x] = MADE(k, n)
            :: else
            fi;
            if
            :: ts[x] == RESERVED -> STEP(x, RESERVED, MINED)
            :: else -> STEP(x, BROADCAST, MINED)
            fi
        :: UNCHANGED && want == BROADCAST -> STEP(x, MINED, BROADCAST)
        :: UNCHANGED && (want == CONFIRMED || want == FAILED) ->
            if
            :: want == FAILED && ts[x] != MINED ->
                record_seen(k, n, m);
                if :: m >= FILLER || IS_NOOP(m) -> paused[k] = 1 :: else fi
            :: else
            fi;
            end_payments(x);
            if
            :: want == CONFIRMED -> STEP(x, MINED, CONFIRMED)
            :: want == FAILED && ts[x] == MINED -> STEP(x, MINED, FAILED)
            :: want == FAILED && ts[x] == RESERVED -> STEP(x, RESERVED, FAILED)
            :: want == FAILED && ts[x] == BROADCAST -> STEP(x, BROADCAST, FAILED)
            fi
        fi;
        AGAIN
    }
}

/* A block takes the next nonce of some wallet; it may be removed until it is final. */
#define MINABLE(t) (((pool >> (t)) & 1) && wn[(t) / 2] == count[wk[(t) / 2]] && \
    count[wk[(t) / 2]] < NONCES)
#define MINES_FILLER(of) :: count[of] < NONCES && \
    ((fillers >> AT(of, count[of])) & 1) -> t_mined = FILLER; k = of
#define MINES(t) :: MINABLE(t) -> t_mined = t; k = wk[t / 2]

proctype chain() {
    byte k, i, t_mined, made, skipped;
    do
    :: atomic {
        if
        MINES(0) MINES(1) MINES(2) MINES(3) MINES(4) MINES(5)
        MINES(6) MINES(7) MINES(8) MINES(9) MINES(10) MINES(11)
        MINES_FILLER(0) MINES_FILLER(1) MINES_FILLER(2)
        fi;
        if
        :: t_mined != FILLER && !IS_NOOP(t_mined) ->
            made = wc[SET(t_mined)];
            /* Each payment is isolated: one may fail, and the others are made. */
            skipped = 0;
            if
            :: true
            :: partials > 0 && (made & 1) -> partials--; made = made & ~1
            :: partials > 0 && (made & 2) -> partials--; made = made & ~2
            :: partials > 0 && (made & 4) -> partials--; made = made & ~4
            fi;
            if
            :: true
            :: caps > 0 && (made & 1) -> caps--; made = made & ~1; skipped = 8
            :: caps > 0 && (made & 2) -> caps--; made = made & ~2; skipped = 16
            :: caps > 0 && (made & 4) -> caps--; made = made & ~4; skipped = 32
            :: batch && reverts > 0 ->
                /* All of it: the wallet is no operator of the vault any more. */
                reverts--; made = 0; skipped = REVERTED
            fi;
            /* I1: a payment is made once, by any wallet and nonce. */
            i = 0;
            do
            :: i < KEYS * NONCES -> assert(!(outcome[i] & made)); i++
            :: else -> break
            od;
            /* I1: what has ended without being paid is never paid. */
            i = 0;
            do
            :: i < PAYMENTS ->
                assert(!((made >> i) & 1) || ps[i] == ABSENT || UNENDED(i));
                i++
            :: else -> break
            od;
            i = 0;
            outcome[AT(k, count[k])] = made | skipped; made = 0; skipped = 0
        :: else
        fi;
        mined[AT(k, count[k])] = t_mined;
        count[k] = count[k] + 1;
        k = 0; t_mined = 0
      }
    :: atomic {
        if
        :: final[0] < count[0] -> k = 0
        :: final[1] < count[1] -> k = 1
        :: final[2] < count[2] -> k = 2
        fi;
        /* The others of this nonce can never be mined. */
        i = 0;
        do
        :: i < ROWS * 2 ->
            if
            :: wk[i] == k && wn[i] == final[k] -> pool = pool & ~(3 << (2 * i))
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0;
        fillers = fillers & ~BIT(AT(k, final[k]));
        final[k] = final[k] + 1;
        k = 0
      }
    od
}

/* What nodes and other users may do, a few times. */
proctype nature() {
    byte k, t;
    do
    :: atomic {
        if
        :: reorgs > 0 && final[0] < count[0] -> k = 0
        :: reorgs > 0 && final[1] < count[1] -> k = 1
        fi;
        reorgs--; count[k] = count[k] - 1;
        if :: window -> removed++ :: else fi;
        mined[AT(k, count[k])] = NONE; outcome[AT(k, count[k])] = 0; k = 0
      }
    :: atomic {
        drops > 0 && pool != 0;
        drops--;
        t = 0;
        do
        :: t < ROWS * 4 && ((pool >> t) & 1) -> pool = pool & ~BIT(t); break
        :: t < ROWS * 4 - 1 -> t++
        :: t >= ROWS * 4 - 1 -> break
        od;
        t = 0
      }
    :: atomic {
        foreigners > 0 && count[serving] < NONCES;
        foreigners--;
        mined[AT(serving, count[serving])] = FOREIGN; count[serving] = count[serving] + 1
      }
    od
}

/* A worker's pass over the wallets, and the operator's acceptance of foreign ones. */
proctype reconciler() {
    byte k, n, i, j;
    bit unknown, waits;
    do
    :: atomic {
        paused[0] || paused[1] || paused[2] || hold;
        do
        :: k < KEYS ->
            /* Record what is final. */
            n = 0; unknown = 0;
            pending_count(k, j);
            do
            :: n < NONCES && n < j ->
                if
                :: !paused[k] && !hold || KNOWN(k, n) -> skip
                :: (paused[k] || hold) && !KNOWN(k, n) && n < final[k] ->
                    record_seen(k, n, mined[AT(k, n)])
                :: else -> unknown = 1
                fi;
                n++
            :: else -> break
            od;
            /* An open transaction's nonce may be used by what is not known yet. */
            n = 0;
            do
            :: n < ROWS ->
                if
                :: IS_OPEN(n) && ts[n] != MINED && tk[n] == k &&
                   tn[n] < count[k] && (mined[AT(k, tn[n])] >= FILLER ||
                   !(recorded & BIT(mined[AT(k, tn[n])]))) ->
                    unknown = 1
                :: else
                fi;
                n++
            :: else -> break
            od;
            /* Resume what is known. */
            if
            :: !unknown && !hold -> paused[k] = 0
            :: unknown || final[k] < high[k] -> waits = 1
            :: else
            fi;
            k++
        :: else -> break
        od;
        if
        :: hold && !waits -> hold = 0; paused[0] = 0; paused[1] = 0; paused[2] = 0
        :: else
        fi;
        n = 0; j = 0; unknown = 0; k = 0; waits = 0
      }
    od
}

/* After a restore: a transaction without payments for each nonce that no row has. */
proctype filler() {
    byte k, n;
    do
    :: atomic {
        hold;
        do
        :: k < KEYS && n < high[k] ->
            if
            :: KNOWN(k, n) || n < count[k] -> skip
            :: else -> fillers = fillers | BIT(AT(k, n))
            fi;
            n++
        :: k < KEYS && n >= high[k] -> k++; n = 0
        :: else -> break
        od;
        k = 0; n = 0
      }
    od
}

proctype client() {
    byte p;
    do
    :: atomic {
        if
        :: payments > 0 && ps[0] == ABSENT -> p = 0
        :: payments > 1 && ps[1] == ABSENT && ps[0] != ABSENT -> p = 1
        :: payments > 2 && ps[2] == ABSENT && ps[1] != ABSENT -> p = 2
        fi;
        if
        :: larges > 0 -> larges--; large[p] = 1; ps[p] = AWAITING_APPROVAL
        :: ps[p] = QUEUED
        fi;
        ACCEPT(p);
        p = 0
      }
    :: atomic {
        if
        :: cancels > 0 && IS_NEW(0) && !asked[0] -> p = 0
        :: cancels > 0 && IS_NEW(1) && !asked[1] -> p = 1
        fi;
        cancels--; asked[p] = 1; p = 0
      }
    od
}

/* Two people, or the end of the time; and who lowers the amount that needs them. */
proctype approver() {
    byte p;
    do
    :: atomic {
        if
        :: large[0] && UNENDED(0) && decision[0] == UNDECIDED -> p = 0
        :: large[1] && UNENDED(1) && decision[1] == UNDECIDED -> p = 1
        fi;
        if :: decision[p] = APPROVED :: decision[p] = REJECTED fi;
        p = 0
      }
    :: atomic {
        lowered > 0 && UNENDED(0) && !large[0] && !IS_SWEEP(0);
        lowered--; large[0] = 1
      }
    od
}

proctype admin() {
    byte k, i, j, n;
    do
    :: atomic {
        rotations > 0 && serving < KEYS - 1;
        rotations--; k = serving; serving = serving + 1; OF_KEY("rotate", serving);
        k = 0
      }
    :: atomic {
        if
        :: revocations > 0 && serving > 0 && !revoked[0] -> k = 0
        :: revocations > 0 && serving > 1 && !revoked[1] -> k = 1
        fi;
        revocations--; revoked[k] = 1; paused[k] = 1; OF_KEY("revoke", k);
        i = 0;
        do
        :: i < ROWS ->
            if
            :: ts[i] == RESERVED && tk[i] == k && att[i] == 0 ->
                /* Its nonce was never used: its payments may get one of another key. */
                j = 0;
                do
                :: j < PAYMENTS ->
                    if
                    :: HAS(i, j) && ps[j] == ASSIGNED && pt[j] == i ->
                        RELEASE(j, RESERVED, QUEUED);
                        if :: bug == ONE_RELEASED -> break :: else fi
                    :: else
                    fi;
                    j++
                :: else -> break
                od;
                j = 0;
                tn[i] = NONE; tk[i] = NONE; tc[i] = 0; ts[i] = ABSENT; CHANGED(PAYMENTS + i)
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0; k = 0
      }
    :: atomic {
        /* The gaps that a revocation left stay: transactions above them may never end. */
        if
        :: reinstatements > 0 && revoked[0] -> k = 0
        :: reinstatements > 0 && revoked[1] -> k = 1
        fi;
        reinstatements--; revoked[k] = 0; paused[k] = 1; OF_KEY("reinstate", k);
        k = 0
      }
    :: atomic {
        restores > 0 && !copied;
        copied = 1;
        i = 0;
        do
        :: i < PAYMENTS -> b_ps[i] = ps[i]; b_pt[i] = pt[i]; b_decision[i] = decision[i]; i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < ROWS ->
            b_ts[i] = ts[i]; b_tn[i] = tn[i]; b_tk[i] = tk[i]; b_tc[i] = tc[i];
            b_att[i] = att[i]; b_last[i] = last[i]; i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < KEYS -> b_nxt[i] = nxt[i]; i++
        :: else -> break
        od;
        i = 0;
        b_recorded = recorded; b_serving = serving
      }
    :: atomic {
        restores > 0 && copied;
        restores--;
        dead[0] = 1; dead[1] = 1;
        old[0] = 1; old[1] = 1;
        i = 0;
        do
        :: i < PAYMENTS ->
            ps[i] = b_ps[i]; pt[i] = b_pt[i]; decision[i] = b_decision[i];
            asked[i] = 0; paid[i] = 0;
            i++
        :: else -> break
        od;
        /* From the last transaction to the first: a payment has the last of its own. */
        i = ROWS;
        do
        :: i > 0 ->
            i--;
            if
            :: (recorded & ~b_recorded) & (15 << (i * 4)) -> gen[i] = 1
            :: else
            fi;
            /* The highest nonce that the log has, or that was signed in truth. */
            n = NONE;
            if
            :: mode == WITH_LOG || mode == WITH_LATE_LOG -> n = log_n[i]; k = log_k[i]
            :: (mode == HIGH_WATER || mode == LOW_WATER) && ((recorded >> (i * 4)) & 3) ->
                n = wn[i * 2]; k = wk[i * 2]
            :: else
            fi;
            if :: n != NONE && high[k] <= n -> high[k] = n + 1 :: else fi;
            ts[i] = b_ts[i]; tn[i] = b_tn[i]; tk[i] = b_tk[i]; tc[i] = b_tc[i];
            att[i] = b_att[i]; last[i] = b_last[i];
            if
            :: (mode == WITH_LOG || mode == WITH_LATE_LOG) && ts[i] == ABSENT &&
               log_n[i] != NONE ->
                /* The log has the transaction, with all of its payments. */
                ts[i] = RESERVED; tn[i] = log_n[i]; tk[i] = log_k[i]; tc[i] = log_c[i];
                j = 0;
                do
                :: j < PAYMENTS ->
                    if
                    :: HAS(i, j) && (ps[j] <= QUEUED || ps[j] == ASSIGNED &&
                       (pt[j] < i || bug == OLDEST_IN_LOG)) ->
                        ps[j] = ASSIGNED; pt[j] = i
                    :: else
                    fi;
                    j++
                :: else -> break
                od;
                j = 0
            :: else
            fi
        :: else -> break
        od;
        i = 0;
        do
        :: i < PAYMENTS ->
            if
            :: (mode == WITH_LOG || mode == WITH_LATE_LOG) && ps[i] <= QUEUED &&
               log_cancelled[i] -> ps[i] = CANCELLED
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < KEYS -> nxt[i] = b_nxt[i]; paused[i] = 0; i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < KEYS * NONCES -> seen[i] = NONE; i++
        :: else -> break
        od;
        i = 0;
        recorded = b_recorded;
        /* Forgotten rotations and revocations are repeated before anything is paid. */
        if :: bug == FORGOTTEN_ROTATION -> serving = b_serving :: else fi;
        if
        :: mode == LOW_WATER -> high[0] = (high[0] > 1 -> high[0] - 2 : 0)
        :: mode == HIGH_WATER && !fair && high[0] < NONCES -> high[0] = high[0] + 1
        :: mode != LOW_WATER
        fi;
        hold = (mode != WITHOUT_LOG);
        do
        :: i < KEYS ->
            if :: nxt[i] < high[i] -> nxt[i] = high[i] :: else fi;
            i++
        :: else -> break
        od;
        i = 0; k = 0; n = 0;
        mode = (mode == WITH_LATE_LOG -> WITH_LOG : mode)
      }
    od
}

#ifndef SIMULATED
c_code {
    static int bound(const char *name) {
        return getenv(name) ? atoi(getenv(name)) : 0;
    }
};
#endif

init {
    byte i;
    atomic {
        do
        :: i < ROWS ->
            tn[i] = NONE; tk[i] = NONE; last[i] = NONE; log_n[i] = NONE; log_k[i] = NONE;
            wn[2 * i] = NONE; wn[2 * i + 1] = NONE; i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < PAYMENTS -> pt[i] = NONE; i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < KEYS * NONCES -> mined[i] = NONE; seen[i] = NONE; i++
        :: else -> break
        od;
        i = 0;
        held[0] = NONE; held[1] = NONE;
#ifdef SIMULATED
        BOUNDS
#else
        c_code {
            now.payments = bound("payments");
            now.workers = bound("workers");
            now.crashes = bound("crashes");
            now.losses = bound("losses");
            now.reorgs = bound("reorgs");
            now.drops = bound("drops");
            now.replacements = bound("replacements");
            now.reverts = bound("reverts");
            now.cancels = bound("cancels");
            now.rotations = bound("rotations");
            now.revocations = bound("revocations");
            now.reinstatements = bound("reinstatements");
            now.foreigners = bound("foreigners");
            now.restores = bound("restores");
            now.partials = bound("partials");
            now.caps = bound("caps");
            now.batch = bound("batch");
            now.window = bound("window");
            now.mode = bound("mode");
            now.sweep = bound("sweep");
            now.liar = bound("liar");
            now.fair = bound("fair");
            now.larges = bound("larges");
            now.lowered = bound("lowered");
            now.bug = bound("bug");
        };
#endif
        if
        :: sweep -> serving = 1; target = 1
        :: else
        fi;
        run chain();
        run client();
        if :: workers > 0 -> run worker(0) :: else fi;
        if :: workers > 1 -> run worker(1) :: else fi;
        run nature();
        run reconciler();
        if :: larges > 0 || lowered > 0 -> run approver() :: else fi;
        if
        :: restores > 0 && mode != WITHOUT_LOG && bug != NO_FILLERS -> run filler()
        :: else
        fi;
        run admin()
    }
}

/* G2: every accepted payment ends, and stays so. */
#ifdef LIVENESS
ltl ends { <> [] (ENDED(0) && ENDED(1) && ENDED(2)) }
#endif
