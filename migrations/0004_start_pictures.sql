-- Pictures that renders start from are erased as soon as their render is over, whichever statement ended it.

CREATE FUNCTION erase_start_picture() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO erasures (prefix, not_before)
    VALUES (concat('tenants/', NEW.tenant_id, '/renders/', NEW.id, '/start/'), NEW.finished_at)
    ON CONFLICT (prefix) DO UPDATE
    SET not_before = greatest(erasures.not_before, excluded.not_before);
    RETURN NULL;
END
$$;

CREATE TRIGGER renders_start_picture AFTER UPDATE OF state ON renders
    FOR EACH ROW WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL AND NEW.spec ? 'init_strength')
    EXECUTE FUNCTION erase_start_picture();
