package control

import (
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"gatehouse/control/authority"
	"gatehouse/control/decisions"
)

// VerifyLog checks the decisions in control's folder, or in a copy of it, against the certificate of control's authority: ca is its file;
// "": the one in the folder. has are hashes that were kept elsewhere.
func VerifyLog(dir, ca string, has []string) ([]*decisions.Verified, error) {
	if ca == "" {
		ca = filepath.Join(dir, AuthorityFile)
	}
	text, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM", ca)
	}
	return decisions.Verify(filepath.Join(dir, DecisionsFolder), func(text, signature []byte) (bool, error) { return authority.Attested(block.Bytes, text, signature) }, has)
}
