ALTER TABLE state ADD COLUMN mode /* normal | onboarding | onboarding-provisioning; NULL, as in documents from before it existed, is normal */ TEXT;

CREATE TRIGGER state_mode_changed AFTER UPDATE OF mode ON state WHEN NEW.mode IS NOT OLD.mode BEGIN
  INSERT INTO changes_since_checkpoint VALUES ('mode', '', 'update') ON CONFLICT DO NOTHING;
END;
