-- What the queue's promises need: retries alone, scheduled starts, webhooks, drains and a ledger of GPU time.

ALTER TABLE renders
    -- Its next attempt shares its worker with no other: its worker went silent, or had too little memory.
    ADD COLUMN alone boolean NOT NULL DEFAULT false,
    -- Attempts alone whose worker went silent.
    ADD COLUMN deaths_alone integer NOT NULL DEFAULT 0 CHECK (deaths_alone >= 0),
    -- As it was asked for; `run_after` is what counts.
    ADD COLUMN start_time timestamptz,
    -- Not to be admitted yet. Of its own, so that admission's index leads past any number of such renders.
    ADD COLUMN scheduled boolean NOT NULL GENERATED ALWAYS AS (run_after IS NOT NULL) STORED,
    ADD COLUMN webhook_url text CHECK (octet_length(webhook_url) BETWEEN 1 AND 2048),
    -- The API key whose secret signs what is sent to the webhook.
    ADD COLUMN webhook_key uuid,
    ADD COLUMN webhook_tries integer NOT NULL DEFAULT 0 CHECK (webhook_tries >= 0),
    -- When the webhook is to be called next; absent before the last state, and once it was told or given up.
    ADD COLUMN webhook_due timestamptz,
    ADD CHECK ((webhook_url IS NULL) = (webhook_key IS NULL)),
    ADD CHECK (webhook_due IS NULL OR (webhook_url IS NOT NULL AND finished_at IS NOT NULL));

DROP INDEX renders_queued;
CREATE INDEX renders_queued ON renders (pool, tenant_id, scheduled, priority, id) WHERE state = 'QUEUED';
CREATE INDEX renders_scheduled ON renders (run_after) WHERE state = 'QUEUED' AND run_after IS NOT NULL;
CREATE INDEX renders_dead ON renders (id DESC) WHERE state = 'FAILED';
-- A failed render is repeated once, however often that is asked for.
CREATE UNIQUE INDEX renders_retry_of ON renders (retry_of) WHERE retry_of IS NOT NULL;
CREATE INDEX renders_webhook ON renders (webhook_due) WHERE webhook_due IS NOT NULL;

-- One try at a webhook.
CREATE TABLE webhook_deliveries (
    render_id uuid NOT NULL REFERENCES renders ON DELETE CASCADE,
    number integer NOT NULL CHECK (number > 0),
    at timestamptz NOT NULL,
    -- The HTTP status; 0 where there was no answer.
    status smallint NOT NULL CHECK (status >= 0),
    PRIMARY KEY (render_id, number)
);

-- Whichever statement ends a render, its webhook is due with it.
CREATE FUNCTION call_webhook() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.webhook_due := NEW.finished_at;
    RETURN NEW;
END
$$;

CREATE TRIGGER renders_webhook BEFORE UPDATE OF state ON renders
    FOR EACH ROW WHEN (NEW.webhook_url IS NOT NULL AND OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL)
    EXECUTE FUNCTION call_webhook();

-- An operator asked the worker to take nothing more; it hears of it with its next hello.
ALTER TABLE workers ADD COLUMN drain_requested boolean NOT NULL DEFAULT false;

-- What a worker's time went into, one row for each attempt that has ended, written with its end. It refers to nothing:
-- a bill outlives what it is for.
CREATE TABLE usage (
    render_id uuid NOT NULL,
    attempt integer NOT NULL CHECK (attempt > 0),
    tenant_id uuid NOT NULL,
    pool text NOT NULL,
    outcome text NOT NULL,
    ended_at timestamptz NOT NULL,
    -- The device's time as a winning attempt reported it; of all others, from the claim to the end.
    seconds double precision NOT NULL CHECK (seconds >= 0),
    -- What it had been estimated at.
    estimated_seconds double precision NOT NULL CHECK (estimated_seconds > 0),
    PRIMARY KEY (render_id, attempt)
);
CREATE INDEX usage_tenant ON usage (tenant_id, ended_at);
CREATE INDEX usage_pool ON usage (pool, ended_at) WHERE outcome = 'SUCCEEDED';
