package directory

// HeadBytes is how much of a file IsSnapshot wants to see.
const HeadBytes = len(fileMagic)

// IsSnapshot says whether a file that begins like this is a binary snapshot, as WriteTo writes it.
func IsSnapshot(head []byte) bool {
	return len(head) >= HeadBytes && string(head[:HeadBytes]) == fileMagic
}
