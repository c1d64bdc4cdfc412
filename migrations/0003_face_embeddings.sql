-- Face embeddings of accepted photos, sealed like coefficients: a photo of somebody else in an identity's set shows.

CREATE TABLE photo_embeddings (
    photo_id uuid NOT NULL REFERENCES photos ON DELETE CASCADE,
    encoder text NOT NULL CHECK (encoder ~ '^[0-9a-f]{64}$'),
    sealing_key text NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (photo_id, encoder)
);
