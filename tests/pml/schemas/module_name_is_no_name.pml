<!-- module_name_is_no_name.pml:3:3: module name 'two words'; expected 1 to 64 of letters, digits, "_", "-" and ".", not begun with a digit, "-" or "." -->
<schema name="s">
  <module name="two words">text</module>
</schema>
