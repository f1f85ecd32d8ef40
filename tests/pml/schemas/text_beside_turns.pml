<!-- text_beside_turns.pml:4:3: text beside turns; expected it inside <system>, <user> or <assistant>, as this schema has turns -->
<schema name="s">
  <system>text</system>
  more
</schema>
