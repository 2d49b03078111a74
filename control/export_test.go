package control

// Held is how many requests for a bundle are held.
func (s *Server) Held() int { return len(s.holds) }
