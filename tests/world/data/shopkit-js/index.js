module.exports = { greeting: "hello from shopkit" };
