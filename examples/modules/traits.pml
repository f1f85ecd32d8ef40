<!-- Personalisation: one trait of each union, so 3 * 3 * 2 readers share eight modules. -->
<schema name="traits">
  Recommend a book to a reader.

  <union>
    <module name="child">
      The reader is a child of ten and reads with a parent.
    </module>
    <module name="student">
      The reader is a student with little time.
    </module>
    <module name="retired">
      The reader is retired and reads all day.
    </module>
  </union>
  <union>
    <module name="science">
      The reader loves science and how things work.
    </module>
    <module name="history">
      The reader loves history and old towns.
    </module>
    <module name="crime">
      The reader loves crime stories with a clever end.
    </module>
  </union>
  <union>
    <module name="brief">
      Answer in one sentence.
    </module>
    <module name="detailed">
      Answer with three books and a reason for each.
    </module>
  </union>
</schema>
