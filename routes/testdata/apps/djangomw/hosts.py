from django_hosts import host, patterns

host_patterns = patterns("", host("www", "djangomw.urls", name="www"), host("api", "djangomw.admin", name="api"))
