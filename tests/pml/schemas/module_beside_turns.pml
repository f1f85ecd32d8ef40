<!-- module_beside_turns.pml:4:3: module 'a' beside turns; expected it inside <system>, <user> or <assistant>, as this schema has turns -->
<schema name="s">
  <system>text</system>
  <module name="a">more</module>
</schema>
