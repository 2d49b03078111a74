package server

import (
	"encoding/json"
	"testing"

	"gatehouse/gate"
)

// TestNoKeysAreAList: /status has a list of keys also where no issuer is configured.
func TestNoKeysAreAList(t *testing.T) {
	if text, err := json.Marshal(keyStatus(&gate.View{})); err != nil || string(text) != "[]" {
		t.Errorf("%s, %v", text, err)
	}
}
