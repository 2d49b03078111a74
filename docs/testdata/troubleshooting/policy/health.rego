package shop.GET.health

allowed := true
