GREETING = "hello from shopkit"
