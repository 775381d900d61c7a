/*
 * The life of refunds, nonces and transactions; docs/explanation/model.md explains it.
 *
 * Every `atomic` is one commit to the database, one act of the chain, or one message to
 * the nodes.  Between two of them, any other process may run and this one may die.
 * tests/model/spin.py runs it and sets the bounds, as environment variables of `pan` or
 * as macros of the simulator.
 */

#define REFUNDS 3
#define KEYS 3
#define NONCES 5
#define NONE 15
#define FOREIGN 14       /* A mined transaction of another program with our key. */
#define FILLER 13        /* A mined no-op that consumes a nonce after a restore. */

/* Statuses: `Status` of signer/model/refund.py, and ABSENT before the acceptance. */
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

/* What was decided about a refund: rejected is also that its time is over. */
#define UNDECIDED 0
#define APPROVED 1
#define REJECTED 2

/* How a lost database is restored. */
#define WITHOUT_LOG 0    /* As documented before the log was used. */
#define WITH_LOG 1       /* The log has the nonce before the device is asked. */
#define HIGH_WATER 2     /* Paused until an operator states the highest signed nonce. */
#define WITH_LATE_LOG 3  /* The log has the nonce after the commit, unless that dies. */
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

/* The bounds of a configuration, used up as they happen. */
byte refunds, workers, crashes, losses, reorgs, drops, replacements, reverts;
byte cancels, rotations, revocations, reinstatements, foreigners, restores;
byte mode, sweep, liar, fair;
byte larges, lowered;
byte bug;

/* The database. */
byte st[REFUNDS];        /* Status. */
byte rn[REFUNDS];        /* Nonce. */
byte rk[REFUNDS];        /* Key, thus sender. */
byte att[REFUNDS];       /* Number of recorded transactions. */
byte last[REFUNDS];      /* The latest of them. */
bit asked[REFUNDS];      /* A request to cancel it is stored. */
bit large[REFUNDS];      /* It needs an approval. */
byte decision[REFUNDS];
byte paid[REFUNDS];      /* 1 + KEYS * nonce + key of a recorded earlier payment; or 0. */
byte nxt[KEYS];          /* The wallet's next nonce. */
bit paused[KEYS];
byte seen[KEYS * NONCES];/* Recorded transactions that the database had not made. */
short recorded;          /* Bit set of transactions. */
byte serving;
bit revoked[KEYS];
byte target;             /* The key that the sweep pays, if `sweep`. */
bit hold;                /* After a restore: nothing new is paid yet. */
byte high[KEYS];         /* After a restore: nonces below are consumed first. */

/* A backup of it. */
bit copied;
byte b_st[REFUNDS], b_rn[REFUNDS], b_rk[REFUNDS], b_att[REFUNDS], b_last[REFUNDS];
byte b_decision[REFUNDS];
byte b_nxt[KEYS], b_serving;
short b_recorded;

/* The log: nonce and key of each refund's signatures. */
byte log_n[REFUNDS], log_k[REFUNDS];
bit log_cancelled[REFUNDS];

/*
 * Transaction r * 4 + g * 2 + a is attempt a of refund r.  g is 1 for those that were
 * made after the database had lost an earlier one.  All of one (r, g) share a nonce.
 */
byte wn[REFUNDS * 2], wk[REFUNDS * 2];
bit gen[REFUNDS];
short noops;

/* The chain.  A nonce below `final` is deep enough. */
short pool;
short fillers;           /* Bit set of AT(key, nonce). */
byte mined[KEYS * NONCES];
byte count[KEYS], final[KEYS];

/* What the workers hold: `old` after another commit, `dead` after a restore. */
byte held[2];
bit old[2], dead[2];

#define BIT(t) (1 << (t))
#define OF(t) ((t) >> 2)
#define IS_NOOP(t) ((noops >> (t)) & 1)
#define AT(k, n) ((k) * NONCES + (n))
#define FINAL(r) (st[r] >= CONFIRMED)
#define OPEN(r) (st[r] != ABSENT && !FINAL(r))
#define ENDED(r) (r >= refunds || FINAL(r))
#define IS_SWEEP(r) (sweep && r == 0)
#define IS_NEW(r) (st[r] == QUEUED || st[r] == AWAITING_APPROVAL)
#define UNAPPROVED(r) (large[r] && decision[r] != APPROVED && bug != PAY_UNAPPROVED)
#define OUTDATED(r) (IS_SWEEP(r) && target != serving)
#define IN_POOL(i, k, n) (((pool >> (2 * i)) & 3) && wn[i] == (n) && wk[i] == (k))
#define PENDING(k, n) (IN_POOL(0, k, n) || IN_POOL(1, k, n) || IN_POOL(2, k, n) || \
    IN_POOL(3, k, n) || IN_POOL(4, k, n) || IN_POOL(5, k, n) || \
    ((fillers >> AT(k, n)) & 1))
#define HAS_ROW(i, k, n) (rn[i] == (n) && rk[i] == (k))
#define KNOWN(k, n) (HAS_ROW(0, k, n) || HAS_ROW(1, k, n) || HAS_ROW(2, k, n) || \
    seen[AT(k, n)] != NONE)
/* The chain has transfer t of refund r. */
#define PAYS(m, r) (m < FILLER && OF(m) == (r) && !IS_NOOP(m))

/* The audit records of a run. */
#ifdef SIMULATED
#define SIGNING(name) printf("EVENT "); printf(name); printf( \
    " refund=%d key=%d nonce=%d attempt=%d noop=%d worker=%d\n", \
    r, k, n, number, kind, w)
#define OF_REFUND(name, r) printf("EVENT "); printf(name); printf( \
    " refund=%d key=%d worker=%d\n", r, k, w)
#define OF_KEY(name, k) printf("EVENT "); printf(name); printf(" key=%d\n", k)
#define ACCEPT(r) printf("EVENT accept refund=%d\n", r)
#define NUMBER number = att[r]
#else
#define SIGNING(name)
#define OF_REFUND(name, r)
#define OF_KEY(name, k)
#define ACCEPT(r)
#define NUMBER
#endif

/* Every change of a status: a compare-and-set, after which others hold an old row. */
#define MOVE(r, before, after) \
    assert(st[r] == before); st[r] = after; \
    if :: held[0] == r -> old[0] = 1 :: else fi; \
    if :: held[1] == r -> old[1] = 1 :: else fi

#define LET_GO held[w] = NONE; old[w] = 0; r = 0; seen_count = 0; want = 0; kind = 0
#define AGAIN LET_GO; goto again
/* At the start of each step: a restore kills all processes, and one may die anyway. */
#define ALIVE \
    if \
    :: dead[w] -> dead[w] = 0; AGAIN \
    :: !dead[w] -> skip \
    :: !dead[w] && crashes > 0 -> crashes--; AGAIN \
    fi
#define UNCHANGED(r) (!old[w] || bug == NO_COMPARISON)

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
    if
    :: m < FILLER && !IS_NOOP(m) && paid[OF(m)] == 0 -> paid[OF(m)] = 1 + KEYS * n + k
    :: else
    fi
}

inline reserve(r, k) {
    /* I2, I3: one owner for each nonce, and one nonce for each refund. */
    assert(!KNOWN(k, nxt[k]));
    assert(att[r] == 0 && rn[r] == NONE);
    assert(!revoked[k]);
    assert(!asked[r]);
    /* What needs an approval has one. */
    assert(!large[r] || decision[r] == APPROVED);
    rn[r] = nxt[k]; rk[r] = k; nxt[k] = nxt[k] + 1;
    MOVE(r, QUEUED, RESERVED)
}

proctype worker(byte w) {
    byte r, k, n, m, seen_count, want, i, j;
    byte cursor = 0;
    bit kind, ok;
#ifdef SIMULATED
    byte number;
#endif
    byte votes;
    bit late;
again:
    /* Claim: any open refund, or each in turn where the claim must be fair. */
    atomic {
        (OPEN(0) || OPEN(1) || OPEN(2));
        late = 0; k = 0; n = 0; m = 0; ok = 0; votes = 0; i = 0; j = 0;
        dead[w] = 0;
        if
        :: fair ->
            do
            :: OPEN(cursor) -> break
            :: else -> cursor = (cursor + 1) % REFUNDS
            od;
            r = cursor; cursor = (cursor + 1) % REFUNDS
        :: !fair && OPEN(0) -> r = 0
        :: !fair && OPEN(1) -> r = 1
        :: !fair && OPEN(2) -> r = 2
        fi;
        held[w] = r; old[w] = 0; k = rk[r]; n = rn[r];
        if
        :: st[r] == AWAITING_APPROVAL -> goto awaiting
        :: st[r] == QUEUED -> goto queued
        :: st[r] == RESERVED -> goto reserved
        :: st[r] == SIGNED -> goto send
        :: st[r] == BROADCAST -> goto follow
        :: st[r] == MINED -> goto follow
        fi
    }

awaiting:
    atomic {
        ALIVE;
        if
        :: asked[r] || decision[r] == REJECTED -> goto queued
        :: !asked[r] && decision[r] == APPROVED ->
            if :: UNCHANGED(r) -> MOVE(r, AWAITING_APPROVAL, QUEUED) :: else fi;
            AGAIN
        :: !asked[r] && decision[r] == UNDECIDED -> AGAIN
        fi
    }

queued:
    /* Compare every wallet with the chain, then choose the key. */
    atomic {
        ALIVE;
        if
        :: st[r] == QUEUED && !asked[r] && UNAPPROVED(r) ->
            /* The amount was lowered, or another program changed the status. */
            if :: UNCHANGED(r) -> MOVE(r, QUEUED, AWAITING_APPROVAL) :: else fi;
            AGAIN
        :: else
        fi;
        k = serving;
        if :: IS_SWEEP(r) -> k = 0 :: else fi;
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
        if
        :: paid[r] -> want = MINED
        :: !paid[r] && asked[r] -> want = CANCELLED
        :: !paid[r] && !asked[r] && st[r] == AWAITING_APPROVAL -> want = REFUSED
        :: !paid[r] && OUTDATED(r) && bug != UNCHECKED_SWEEP -> want = REFUSED
        :: !paid[r] && !asked[r] && st[r] != AWAITING_APPROVAL && reverts > 0 ->
            reverts--; want = REFUSED
        :: !paid[r] && !asked[r] && st[r] != AWAITING_APPROVAL &&
           !(OUTDATED(r) && bug != UNCHECKED_SWEEP) -> skip
        fi
    }
    atomic {
        ALIVE;
        if
        :: !UNCHANGED(r) -> AGAIN
        :: UNCHANGED(r) && want == MINED ->
            m = seen[AT((paid[r] - 1) % KEYS, (paid[r] - 1) / KEYS)];
            k = (paid[r] - 1) % KEYS; n = (paid[r] - 1) / KEYS;
            if
            :: HAS_ROW(0, k, n) || HAS_ROW(1, k, n) || HAS_ROW(2, k, n) ->
                if
                :: st[r] == QUEUED -> MOVE(r, QUEUED, REFUSED)
                :: else -> MOVE(r, AWAITING_APPROVAL, REFUSED)
                fi
            :: else ->
                rn[r] = n; rk[r] = k;
                if
                :: st[r] == QUEUED -> MOVE(r, QUEUED, MINED)
                :: else -> MOVE(r, AWAITING_APPROVAL, MINED)
                fi
            fi
        :: UNCHANGED(r) && want == CANCELLED ->
            if
            :: st[r] == QUEUED -> MOVE(r, QUEUED, CANCELLED)
            :: else -> MOVE(r, AWAITING_APPROVAL, CANCELLED)
            fi;
            log_cancelled[r] = 1; OF_REFUND("cancel", r)
        :: UNCHANGED(r) && want == REFUSED && st[r] == QUEUED ->
            MOVE(r, QUEUED, REFUSED)
        :: UNCHANGED(r) && want == REFUSED && st[r] == AWAITING_APPROVAL ->
            MOVE(r, AWAITING_APPROVAL, REFUSED)
        :: UNCHANGED(r) && want == RESERVED ->
            /* One transaction reserves the batch, under the lock of the chain. */
            if
            :: paused[k] || hold || paid[r] || nxt[k] < seen_count || nxt[k] >= NONCES ->
                AGAIN
            :: else
            fi;
            if
            :: !IS_SWEEP(r) && k != serving && bug != NO_COMPARISON -> AGAIN
            :: OUTDATED(r) && bug != UNCHECKED_SWEEP -> AGAIN
            :: asked[r] && bug != SIGN_AFTER_CANCEL -> AGAIN
            :: UNAPPROVED(r) -> AGAIN
            :: else
            fi;
            reserve(r, k);
            old[w] = 0;
            OF_REFUND("reserve", r);
            i = 0;
            do
            :: i < REFUNDS ->
                if
                :: i != r && st[i] == QUEUED && !asked[i] && !paid[i] && !IS_SWEEP(r) &&
                   !UNAPPROVED(i) &&
                   !IS_SWEEP(i) && nxt[k] < NONCES ->
                    reserve(i, k); OF_REFUND("reserve", i)
                :: true
                fi;
                i++
            :: else -> break
            od;
            i = 0;
            if
            :: IS_SWEEP(r) -> AGAIN   /* Its intent is checked when it is signed. */
            :: else -> want = 0; seen_count = 0; n = rn[r]; goto sign
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
        if :: UNAPPROVED(r) && decision[r] == UNDECIDED -> AGAIN :: else fi;
        if
        :: UNAPPROVED(r) || paid[r] || OUTDATED(r) && bug != UNCHECKED_SWEEP -> kind = 1
        :: !UNAPPROVED(r) && !paid[r] && reverts > 0 -> reverts--; kind = 1
        :: !UNAPPROVED(r) && !paid[r] && !(OUTDATED(r) && bug != UNCHECKED_SWEEP) -> skip
        fi
    }

sign:
    /* The intent to sign; the reservation has recorded the first one. */
    atomic {
        ALIVE;
        if
        :: late && revoked[k] && bug != SIGN_AFTER_REVOKE -> AGAIN
        :: late && kind == 0 && OUTDATED(r) && bug != UNCHECKED_SWEEP -> AGAIN
        :: late && kind == 0 && att[r] == 0 && UNAPPROVED(r) -> AGAIN
        :: else
        fi;
        NUMBER;
        if :: late -> SIGNING("intend") :: else fi;
        /* O5: a revoked key begins no signature. */
        assert(!late || !revoked[k]);
        /* No transfer is signed without an approval, except a replacement. */
        assert(kind || !late || att[r] || !large[r] || decision[r] == APPROVED);
        /* O8: a sweep pays the active key only. */
        assert(kind || !late || !OUTDATED(r));
        if
        :: mode != WITH_LATE_LOG -> log_n[r] = n; log_k[r] = k
        :: else
        fi;
        if
        :: bug == EARLY_BROADCAST && !old[w] ->
            m = r * 4 + gen[r] * 2 + att[r]; goto early
        :: else
        fi
    }
record:
    /* The device has signed: one commit records bytes, outcome and status. */
    atomic {
        ALIVE;
        if :: !UNCHANGED(r) -> SIGNING("unused"); AGAIN :: else fi;
        if :: att[r] > 1 -> AGAIN :: else fi;
        m = r * 4 + gen[r] * 2 + att[r];
        wn[r * 2 + gen[r]] = rn[r]; wk[r * 2 + gen[r]] = rk[r];
        recorded = recorded | BIT(m);
        if :: kind -> noops = noops | BIT(m) :: else -> noops = noops & ~BIT(m) fi;
        last[r] = m;
        SIGNING("sign");
        att[r]++;
        if
        :: st[r] == RESERVED -> MOVE(r, RESERVED, SIGNED)
        :: else -> MOVE(r, BROADCAST, SIGNED)
        fi;
        if
        :: mode == WITH_LATE_LOG -> old[w] = 0; goto log
        :: else -> AGAIN
        fi
    }
log:
    atomic {
        ALIVE;
        log_n[r] = n; log_k[r] = k;
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
        m = last[r];
        if
        :: IS_SWEEP(r) && OUTDATED(r) && !IS_NOOP(m) && bug != UNCHECKED_SWEEP -> skip
        :: else ->
            assert(recorded & BIT(m));
            if
            :: count[k] > n ->
                if
                :: bug == NEW_NONCE && !old[w] ->
                    gen[r] = 1; att[r] = 0; rn[r] = NONE; rk[r] = NONE; last[r] = NONE;
                    recorded = recorded & ~(15 << (r * 4));
                    st[r] = QUEUED; old[0] = 1; old[1] = 1;
                    AGAIN
                :: else
                fi
            :: else ->
                if
                :: pool = pool | BIT(m)
                :: losses > 0 -> losses--; AGAIN
                :: losses > 0 -> losses--; pool = pool | BIT(m); AGAIN
                fi
            fi
        fi
    }
    atomic {
        ALIVE;
        if
        :: UNCHANGED(r) -> MOVE(r, SIGNED, BROADCAST)
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
        :: st[r] == MINED ->
            if
            :: m == NONE -> want = BROADCAST
            :: else ->
                ask(final[k] > n || bug == ONE_CONFIRMATION, ok);
                if
                :: ok && PAYS(m, r) -> want = CONFIRMED
                :: ok && !PAYS(m, r) -> want = FAILED
                :: else -> AGAIN
                fi
            fi;
            goto commit
        :: st[r] == BROADCAST ->
            ask(count[k] > n, ok);
            if
            :: ok && count[k] > n -> goto taken
            :: else
            fi
        :: else -> AGAIN
        fi;
        if
        :: att[r] == 0 && !UNAPPROVED(r) ->
            goto sign                   /* Adopted, and removed by a reorganisation. */
        :: att[r] == 0 && UNAPPROVED(r) -> AGAIN
        :: att[r] > 0 && (paid[r] && paid[r] != 1 + KEYS * n + k ||
           OUTDATED(r) && bug != UNCHECKED_SWEEP) && !IS_NOOP(last[r]) && att[r] < 2 &&
           !revoked[k] ->
            kind = 1; goto sign
        :: att[r] == 1 && replacements > 0 && !revoked[k] ->
            replacements--; kind = IS_NOOP(last[r]); goto sign
        :: att[r] > 0 && !(OUTDATED(r) && !IS_NOOP(last[r])) ->
            assert(recorded & BIT(last[r]));
            pool = pool | BIT(last[r]); AGAIN
        :: else -> AGAIN
        fi
    }

taken:
    /* The nonce is used on the chain: by us, by a lost payment, or by another. */
    atomic {
        ALIVE;
        m = mined[AT(k, n)];
        want = 0;
        if
        :: m == NONE -> AGAIN
        :: m < FILLER && OF(m) == r && (recorded & BIT(m)) &&
           (bug != LAST_HASH || m == last[r]) -> want = MINED
        :: m < FILLER && OF(m) == r && (recorded & BIT(m)) && bug == LAST_HASH &&
           m != last[r] -> AGAIN
        :: m < FILLER && OF(m) == r && !(recorded & BIT(m)) && !IS_NOOP(m) -> want = MINED
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
        :: !UNCHANGED(r) -> AGAIN
        :: UNCHANGED(r) && want == MINED && st[r] == RESERVED -> MOVE(r, RESERVED, MINED)
        :: UNCHANGED(r) && want == MINED && st[r] != RESERVED -> MOVE(r, BROADCAST, MINED)
        :: UNCHANGED(r) && want == BROADCAST -> MOVE(r, MINED, BROADCAST)
        :: UNCHANGED(r) && want == CONFIRMED ->
            /* I1: at depth, and it pays this refund. */
            assert(final[rk[r]] > rn[r] && PAYS(mined[AT(rk[r], rn[r])], r));
            MOVE(r, MINED, CONFIRMED)
        :: UNCHANGED(r) && want == FAILED ->
            assert(final[rk[r]] > rn[r] && !PAYS(mined[AT(rk[r], rn[r])], r));
            if
            :: st[r] == MINED -> MOVE(r, MINED, FAILED)
            :: st[r] == RESERVED ->
                record_seen(k, n, m);
                if :: m >= FILLER || IS_NOOP(m) -> paused[k] = 1 :: else fi;
                MOVE(r, RESERVED, FAILED)
            :: else ->
                record_seen(k, n, m);
                if :: m >= FILLER || IS_NOOP(m) -> paused[k] = 1 :: else fi;
                MOVE(r, BROADCAST, FAILED)
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
    byte k, i, t_mined;
    bit twice;
    do
    :: atomic {
        if
        MINES(0) MINES(1) MINES(2) MINES(3) MINES(4) MINES(5)
        MINES(6) MINES(7) MINES(8) MINES(9) MINES(10) MINES(11)
        MINES_FILLER(0) MINES_FILLER(1) MINES_FILLER(2)
        fi;
        if
        :: t_mined != FILLER && !IS_NOOP(t_mined) ->
            /* I1: a refund is paid once, whichever wallet and nonce pays it. */
            i = 0; twice = 0;
            do
            :: i < KEYS * NONCES ->
                if
                :: mined[i] != NONE && PAYS(mined[i], OF(t_mined)) -> twice = 1
                :: else
                fi;
                i++
            :: else -> break
            od;
            assert(!twice);
            /* I1: what has ended without a payment is never paid. */
            assert(st[OF(t_mined)] != CANCELLED && st[OF(t_mined)] != REFUSED);
            i = 0; twice = 0
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
        :: i < REFUNDS * 2 ->
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
        reorgs--; count[k] = count[k] - 1; mined[AT(k, count[k])] = NONE; k = 0
      }
    :: atomic {
        drops > 0 && pool != 0;
        drops--;
        t = 0;
        do
        :: t < REFUNDS * 4 && ((pool >> t) & 1) -> pool = pool & ~BIT(t); break
        :: t < REFUNDS * 4 - 1 -> t++
        :: t >= REFUNDS * 4 - 1 -> break
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
    byte k, n, j;
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
            /* An open refund's nonce may be used by what is not known yet. */
            n = 0;
            do
            :: n < REFUNDS ->
                if
                :: OPEN(n) && !IS_NEW(n) && st[n] != MINED && rk[n] == k &&
                   rn[n] < count[k] && (mined[AT(k, rn[n])] >= FILLER ||
                   !(recorded & BIT(mined[AT(k, rn[n])]))) ->
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

/* After a restore: a no-op for each nonce below the mark that no row has. */
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
    byte r;
    do
    :: atomic {
        if
        :: refunds > 0 && st[0] == ABSENT -> r = 0
        :: refunds > 1 && st[1] == ABSENT && st[0] != ABSENT -> r = 1
        :: refunds > 2 && st[2] == ABSENT && st[1] != ABSENT -> r = 2
        fi;
        if
        :: larges > 0 -> larges--; large[r] = 1; st[r] = AWAITING_APPROVAL
        :: st[r] = QUEUED
        fi;
        ACCEPT(r);
        r = 0
      }
    :: atomic {
        if
        :: cancels > 0 && IS_NEW(0) && !asked[0] -> r = 0
        :: cancels > 0 && IS_NEW(1) && !asked[1] -> r = 1
        fi;
        cancels--; asked[r] = 1; r = 0
      }
    od
}

/* Two people, or the end of the time; and who lowers the amount that needs them. */
proctype approver() {
    byte r;
    do
    :: atomic {
        if
        :: large[0] && OPEN(0) && decision[0] == UNDECIDED -> r = 0
        :: large[1] && OPEN(1) && decision[1] == UNDECIDED -> r = 1
        fi;
        if :: decision[r] = APPROVED :: decision[r] = REJECTED fi;
        r = 0
      }
    :: atomic {
        lowered > 0 && OPEN(0) && !large[0] && !IS_SWEEP(0);
        lowered--; large[0] = 1
      }
    od
}

proctype admin() {
    byte k, i, n;
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
        :: i < REFUNDS ->
            if
            :: st[i] == RESERVED && rk[i] == k && att[i] == 0 ->
                /* Its nonce was never used: it may get one of another key. */
                rn[i] = NONE; rk[i] = NONE; MOVE(i, RESERVED, QUEUED)
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0; k = 0
      }
    :: atomic {
        /* The gaps that a revocation left stay: refunds above them may never end. */
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
        :: i < REFUNDS ->
            b_st[i] = st[i]; b_rn[i] = rn[i]; b_rk[i] = rk[i]; b_att[i] = att[i];
            b_last[i] = last[i]; b_decision[i] = decision[i]; i++
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
        :: i < REFUNDS ->
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
            st[i] = b_st[i]; rn[i] = b_rn[i]; rk[i] = b_rk[i]; att[i] = b_att[i];
            last[i] = b_last[i]; asked[i] = 0; paid[i] = 0; decision[i] = b_decision[i];
            if
            :: (mode == WITH_LOG || mode == WITH_LATE_LOG) && st[i] <= QUEUED ->
                /* The log knows the refund's nonce, or that it was cancelled. */
                if
                :: log_n[i] != NONE -> st[i] = RESERVED; rn[i] = log_n[i]; rk[i] = log_k[i]
                :: log_n[i] == NONE && log_cancelled[i] -> st[i] = CANCELLED
                :: else
                fi
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
        :: i < REFUNDS ->
            rn[i] = NONE; rk[i] = NONE; last[i] = NONE; log_n[i] = NONE; log_k[i] = NONE;
            wn[2 * i] = NONE; wn[2 * i + 1] = NONE; i++
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
            now.refunds = bound("refunds");
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

/* G2: every accepted refund ends, and stays so. */
#ifdef LIVENESS
ltl ends { <> [] (ENDED(0) && ENDED(1) && ENDED(2)) }
#endif
