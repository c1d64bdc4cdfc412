-- Sliders, base coefficients, and how like the person each image is.

-- A direction between two people or photos. Like a render it is pinned to photos, and holds no coefficients of its own:
-- what is erased with a photo is gone from every slider.
CREATE TABLE sliders (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    display_name text NOT NULL DEFAULT '' CHECK (octet_length(display_name) <= 200),
    before_identity uuid NOT NULL REFERENCES identities ON DELETE CASCADE,
    -- Set where it was made from this one photo, absent where from the identity.
    before_photo uuid,
    after_identity uuid NOT NULL REFERENCES identities ON DELETE CASCADE,
    after_photo uuid,
    created_at timestamptz NOT NULL
);
CREATE INDEX sliders_tenant ON sliders (tenant_id, id);
CREATE INDEX sliders_before ON sliders (before_identity);
CREATE INDEX sliders_after ON sliders (after_identity);

-- The photos whose coefficients a slider is pinned to.
CREATE TABLE slider_photos (
    slider_id uuid NOT NULL REFERENCES sliders ON DELETE CASCADE,
    side text NOT NULL CHECK (side IN ('BEFORE', 'AFTER')),
    photo_id uuid NOT NULL REFERENCES photos ON DELETE CASCADE,
    PRIMARY KEY (slider_id, side, photo_id)
);
CREATE INDEX slider_photos_photo ON slider_photos (photo_id);

-- A slider does not outlive any of its photos, whichever statement deletes them.
CREATE FUNCTION erase_slider() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM sliders WHERE id = OLD.slider_id;
    RETURN NULL;
END
$$;

CREATE TRIGGER slider_photos_gone AFTER DELETE ON slider_photos
    FOR EACH ROW EXECUTE FUNCTION erase_slider();

-- What a render moves along, with the photos whose coefficients it is pinned to. It stays when the slider is deleted.
CREATE TABLE render_sliders (
    render_id uuid NOT NULL REFERENCES renders ON DELETE CASCADE,
    position smallint NOT NULL CHECK (position >= 0),
    slider_id uuid NOT NULL,
    scale real NOT NULL CHECK (scale >= -2 AND scale <= 2),
    before_identity uuid NOT NULL,
    before_photos uuid[] NOT NULL CHECK (cardinality(before_photos) > 0),
    after_identity uuid NOT NULL,
    after_photos uuid[] NOT NULL CHECK (cardinality(after_photos) > 0),
    PRIMARY KEY (render_id, position)
);
CREATE INDEX render_sliders_before ON render_sliders (before_identity);
CREATE INDEX render_sliders_after ON render_sliders (after_identity);

-- Everybody whose coefficients a render takes, shown or at a slider's end.
CREATE VIEW render_sources AS
    SELECT render_id, identity_id, photo_ids FROM render_identities
    UNION ALL
    SELECT render_id, before_identity, before_photos FROM render_sliders
    UNION ALL
    SELECT render_id, after_identity, after_photos FROM render_sliders;

-- What the base resampler predicted from one photo, before the mean, sealed; only for encoders that have one.
CREATE TABLE photo_base_coefficients (
    photo_id uuid NOT NULL REFERENCES photos ON DELETE CASCADE,
    encoder text NOT NULL CHECK (encoder ~ '^[0-9a-f]{64}$'),
    tokens integer NOT NULL CHECK (tokens > 0),
    k integer NOT NULL CHECK (k > 0),
    sealing_key text NOT NULL,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (photo_id, encoder)
);
ALTER TABLE photo_base_coefficients ALTER COLUMN sealed SET STORAGE EXTERNAL;

-- Cosine of the identity's and the image's face embeddings, where it was measured.
ALTER TABLE render_images ADD COLUMN likeness real CHECK (likeness >= -1 AND likeness <= 1);
