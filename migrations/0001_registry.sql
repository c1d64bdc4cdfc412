-- Tenants, keys, identities, photos and their coefficients.

CREATE TABLE tenants (
    id uuid PRIMARY KEY,
    display_name text NOT NULL UNIQUE CHECK (octet_length(display_name) BETWEEN 1 AND 200),
    state text NOT NULL DEFAULT 'ACTIVE' CHECK (state IN ('ACTIVE', 'SUSPENDED')),
    weight real NOT NULL DEFAULT 1 CHECK (weight > 0 AND weight <= 1000),
    max_running integer CHECK (max_running >= 0),
    max_queued integer CHECK (max_queued >= 0),
    max_renders_per_minute integer CHECK (max_renders_per_minute >= 0),
    max_identities integer CHECK (max_identities >= 0),
    -- When admission last took a render of this tenant: ties in fairness go to the least recently served.
    served_at timestamptz,
    -- The etag: raised by every update.
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL
);

CREATE TABLE api_keys (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    display_name text NOT NULL DEFAULT '' CHECK (octet_length(display_name) <= 200),
    secret_sha256 bytea NOT NULL CHECK (octet_length(secret_sha256) = 32),
    expire_time timestamptz,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL
);
CREATE INDEX api_keys_tenant ON api_keys (tenant_id, id);

CREATE TABLE identities (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    external_id text CHECK (octet_length(external_id) BETWEEN 1 AND 200),
    display_name text NOT NULL DEFAULT '' CHECK (octet_length(display_name) <= 200),
    labels jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(labels) = 'object'),
    consent_reference text CHECK (octet_length(consent_reference) <= 500),
    consent_granted_at timestamptz,
    consent_revoked_at timestamptz,
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE (tenant_id, external_id),
    CHECK ((consent_reference IS NULL) = (consent_granted_at IS NULL)),
    CHECK (consent_revoked_at IS NULL OR consent_granted_at IS NOT NULL)
);
CREATE INDEX identities_tenant ON identities (tenant_id, id);
CREATE INDEX identities_labels ON identities USING gin (labels jsonb_path_ops);

CREATE TABLE photos (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    identity_id uuid NOT NULL REFERENCES identities ON DELETE CASCADE,
    state text NOT NULL DEFAULT 'PENDING'
        CHECK (state IN ('PENDING', 'RUNNING', 'ACCEPTED', 'REJECTED', 'FAILED')),
    face_choice text NOT NULL CHECK (face_choice IN ('ONLY', 'LARGEST')),
    content_type text NOT NULL,
    size_bytes bigint NOT NULL CHECK (size_bytes >= 0),
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    quality jsonb,
    rejection_reason text CHECK (rejection_reason IN (
        'NOT_AN_IMAGE', 'UNSUPPORTED_FORMAT', 'TOO_LARGE', 'NO_FACE', 'SEVERAL_FACES',
        'FACE_TOO_SMALL', 'TOO_BLURRY', 'TOO_DARK', 'SAME_PERSON_DOUBTFUL')),
    rejection_message text,
    -- The queue's own columns: as in renders.
    publication integer NOT NULL DEFAULT 0 CHECK (publication >= 0),
    published_at timestamptz,
    attempt integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    worker text,
    lease_until timestamptz,
    run_after timestamptz,
    created_at timestamptz NOT NULL,
    finished_at timestamptz,
    CHECK ((state = 'RUNNING') = (worker IS NOT NULL)),
    CHECK ((state = 'RUNNING') = (lease_until IS NOT NULL)),
    CHECK ((state IN ('ACCEPTED', 'REJECTED', 'FAILED')) = (finished_at IS NOT NULL)),
    CHECK ((state = 'REJECTED') = (rejection_reason IS NOT NULL)),
    CHECK ((state = 'REJECTED') = (rejection_message IS NOT NULL)),
    CHECK (state NOT IN ('RUNNING', 'ACCEPTED') OR attempt > 0),
    CHECK (state <> 'ACCEPTED' OR quality IS NOT NULL)
);
CREATE INDEX photos_identity ON photos (identity_id, id);
CREATE INDEX photos_pending ON photos (id) WHERE state = 'PENDING';
CREATE INDEX photos_lease ON photos (lease_until) WHERE state = 'RUNNING';

-- What the resampler predicted from one photo, before the mean, sealed. One row for each encoder, so that an upgrade
-- can re-enrol beside the old.
CREATE TABLE photo_coefficients (
    photo_id uuid NOT NULL REFERENCES photos ON DELETE CASCADE,
    encoder text NOT NULL CHECK (encoder ~ '^[0-9a-f]{64}$'),
    tokens integer NOT NULL CHECK (tokens > 0),
    k integer NOT NULL CHECK (k > 0),
    sealing_key text NOT NULL,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (photo_id, encoder)
);
-- Sealed bytes do not compress.
ALTER TABLE photo_coefficients ALTER COLUMN sealed SET STORAGE EXTERNAL;

-- What a request_id did: the same request returns the same resources for 24 hours. Operators' requests stand under
-- the nil tenant.
CREATE TABLE idempotency (
    tenant_id uuid NOT NULL,
    method text NOT NULL,
    request_id text NOT NULL CHECK (octet_length(request_id) BETWEEN 1 AND 128),
    payload_sha256 bytea NOT NULL CHECK (octet_length(payload_sha256) = 32),
    resource_ids uuid[] NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, method, request_id)
);
CREATE INDEX idempotency_age ON idempotency (created_at);

-- Objects to delete from storage, by key prefix: written with the change that orphans them, emptied by the sweep.
CREATE TABLE erasures (
    prefix text PRIMARY KEY CHECK (prefix LIKE 'tenants/%'),
    -- Not before every upload link to it has ended.
    not_before timestamptz NOT NULL
);
CREATE INDEX erasures_due ON erasures (not_before);
